"""The lake's two stages: `corpus` gathers documents into `raw`, `curate` cleans them into `curated`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from sovereign.errors import SourceError
from sovereign.files import write_atomic
from sovereign.lake.curation import Curation
from sovereign.lake.decontamination import file_digest
from sovereign.lake.demonstration import LANGUAGES, Question, make_documents, make_facts, make_questions
from sovereign.lake.documents import Counts, Document
from sovereign.lake.hostfiles import collected_digests
from sovereign.lake.ingest import VERSION, Batches, ingest_source
from sovereign.lake.records import Report
from sovereign.lake.sources import combine_digests, source_digest
from sovereign.lake.wordlists import plugin_digests
from sovereign.locks import hold
from sovereign.plan import Plan
from sovereign.profile import Demonstration, Profile
from sovereign.stages import Stage, StageContext, StageOutput
from sovereign.store import Store


def _run_corpus(context: StageContext) -> StageOutput:
    """Generate the demonstration country and read the sources.

    Raises:
        SourceError: a source is not there, or nothing of it can be read.
        OSError: the documents cannot be written; of reading a file, it is counted as that file's.
    """
    waiting = partial(context.progress, "waiting for a process of another run")
    with hold(context.workdir / "lock", waiting):
        return _gather(context)


def _gather(context: StageContext) -> StageOutput:
    settings = context.profile.corpus
    batches, counts = Batches(context), Counts()
    metrics: dict[str, Any] = {}
    questions: list[Question] = []
    if settings.demonstration is not None:
        context.progress("demonstration country")
        questions = list(make_questions(settings.demonstration))
        metrics["demonstration"] = _demonstration_metrics(settings.demonstration)
        made_from = {"demonstration": settings.demonstration.model_dump(mode="json")}
        tell = partial(_tell, settings.demonstration)
        counts.update(batches.add("demonstration country", made_from, tell).counts)
    for source in settings.sources:
        context.progress(f"source {source.name}")
        part = ingest_source(context, source, batches)
        report = part.report
        metrics[f"source {source.name}"] = {"declared": source.model_dump(mode="json"), **report.metrics()}
        if not report.documents:
            raise SourceError(
                f"source {source.name} has no document that can be read",
                got=f"{dict(report.skipped)}, first {report.examples[0]}" if report.skipped else "no file",
                expected="at least one document",
                hint="docs/corpus.md says what each reason asks for; or take the source out of corpus.sources",
            )
        if report.skipped:
            context.progress(f"source {source.name}: skipped {dict(report.skipped)}, first {report.examples[0]}")
        counts.update(part.counts)
    prefix = f"raw/{context.dataset}/"
    output = _output(prefix, context.workdir / prefix, questions, counts.metrics() | metrics)
    return replace(output, stored=batches.publish())


def _tell(settings: Demonstration, report: Report) -> Iterator[Document]:
    for document in make_documents(settings):
        report.found += 1
        report.documents += 1
        yield document


def _demonstration_metrics(settings: Demonstration) -> dict[str, Any]:
    facts = make_facts(settings)
    return {"facts": len(facts), "languages": list(LANGUAGES), "owners": len({fact.owner for fact in facts})}


def _run_curate(context: StageContext) -> StageOutput:
    """Check rights, screen each document, drop duplicates (keeping every owner), hold some out, set others aside."""
    curation = Curation(context)
    stored = curation.run()
    if context.rank:
        return StageOutput()
    metrics = curation.metrics()
    questions, metrics["questions"] = curation.check_questions()
    output = _output(curation.curated, context.workdir / curation.curated, questions, metrics)
    return replace(output, stored=stored)


def _output(prefix: str, folder: Path, questions: list[Question], metrics: dict[str, Any]) -> StageOutput:
    """With questions.jsonl, written into `folder`."""
    lines = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    write_atomic(folder / "questions.jsonl", lines)
    return StageOutput({f"{prefix}questions.jsonl": folder / "questions.jsonl"}, metrics)


def _corpus_config(profile: Profile, _plan: Plan) -> Mapping[str, Any]:
    # A domain is no part of a document.
    corpus = profile.corpus.model_dump(mode="json", exclude={"sources": {"__all__": {"domain"}}})
    opt_outs = {name: corpus["rights"]["opt_outs"][name] for name in ("agents", "retroactive")}
    rights = {"licences": sorted(profile.corpus.rights.declared)} | opt_outs
    return {"demonstration": corpus["demonstration"], "sources": corpus["sources"], "rights": rights}


def _curate_config(profile: Profile, _plan: Plan) -> Mapping[str, Any]:
    corpus = profile.corpus
    rights = corpus.rights.model_dump(
        mode="json", include={"trainable", "registered_owners_only", "on_other", "withdrawn"}
    )
    return {
        "cleaning": corpus.cleaning.model_dump(mode="json"),
        "task_mb": corpus.curation.task_mb,
        "rights": rights,
        "owners": sorted(owner.name for owner in corpus.owners),
    }


def _source_digests(profile: Profile, store: Store) -> Mapping[str, str]:
    digests = {f"source/{source.name}": source_digest(source, store) for source in profile.corpus.sources}
    collected = profile.corpus.rights.opt_outs.collected
    return digests | ({"opt-outs/collected": combine_digests(collected_digests(Path(collected)))} if collected else {})


def _curate_digests(profile: Profile, _store: Store) -> Mapping[str, str]:
    opt_outs = profile.corpus.rights.opt_outs.file
    files = profile.corpus.cleaning.files | ({"opt-outs/file": Path(opt_outs)} if opt_outs else {})
    digests = {name: file_digest(name, path) for name, path in files.items()}
    return digests | plugin_digests(profile.corpus.cleaning.word_lists)


corpus = Stage(
    name="corpus",
    run=_run_corpus,
    needs=(),
    config=_corpus_config,
    prefix="raw/{dataset}/",
    version=VERSION,
    external_inputs=_source_digests,
    scratch="raw/{dataset}/units/",
)
curate = Stage(
    name="curate",
    run=_run_curate,
    needs=("corpus",),
    config=_curate_config,
    prefix="curated/{dataset}/",
    version=5,
    external_inputs=_curate_digests,
    scratch="curated/{dataset}/units/",
)
