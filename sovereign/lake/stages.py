"""The lake's two stages: `corpus` gathers documents into `raw`, `curate` cleans them into `curated`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sovereign.errors import SourceError, StageError
from sovereign.files import write_atomic
from sovereign.lake.cleaning import Index, text_digest
from sovereign.lake.decontamination import file_digest
from sovereign.lake.demonstration import LANGUAGES, Question, make_documents, make_facts, make_questions
from sovereign.lake.documents import Counts, Document, DocumentWriter, count_documents, read_documents, read_rows
from sovereign.lake.hostfiles import collected_digests
from sovereign.lake.ingest import Ingested, ingest_source, with_progress
from sovereign.lake.neardedup import NearDuplicates
from sovereign.lake.rights import RightsRules
from sovereign.lake.screening import Screen
from sovereign.lake.sources import combine_digests, source_digest
from sovereign.plan import Plan
from sovereign.profile import Demonstration, Profile
from sovereign.stages import Stage, StageContext, StageOutput
from sovereign.store import Store


def _run_corpus(context: StageContext) -> StageOutput:
    """Generate the demonstration country and read the sources.

    Raises:
        SourceError: a source is not there, or nothing of it can be read.
        StageError: the documents cannot be written.
    """
    try:
        return _gather(context)
    except OSError as error:  # of reading a file, it is counted as that file's
        raise StageError(
            f"cannot write the documents: {error}",
            hint="make room for the work folder and run the stage again: what is finished is kept",
        ) from error


def _gather(context: StageContext) -> StageOutput:
    settings = context.profile.corpus
    folder = context.workdir / "raw" / context.dataset
    whole = Ingested()
    metrics: dict[str, Any] = {}
    questions: list[Question] = []
    if settings.demonstration is not None:
        context.progress("demonstration country")
        questions = list(make_questions(settings.demonstration))
        metrics["demonstration"] = _demonstration_metrics(settings.demonstration)
        with DocumentWriter(folder, "documents") as writer:
            for document in with_progress(context, make_documents(settings.demonstration), "demonstration country"):
                writer.add(document)
                whole.counts.add(document)
        whole.files += writer.files
    for source in settings.sources:
        context.progress(f"source {source.name}")
        part = ingest_source(context, source, folder, len(whole.files))
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
        whole.add(part)
    return _output(f"raw/{context.dataset}/", folder, whole.files, questions, whole.counts.metrics() | metrics)


def _demonstration_metrics(settings: Demonstration) -> dict[str, Any]:
    facts = make_facts(settings)
    return {"facts": len(facts), "languages": list(LANGUAGES), "owners": len({fact.owner for fact in facts})}


def _run_curate(context: StageContext) -> StageOutput:
    """Check rights, screen each document, drop duplicates (keeping every owner), hold some out, set others aside."""
    raw, curated = f"raw/{context.dataset}/", f"curated/{context.dataset}/"
    paths = [context.fetch(key) for key in sorted(context.inputs) if key.endswith(".parquet")]
    num_documents = count_documents(paths)
    rights = RightsRules(context.profile.corpus)
    context.progress("checking rights")
    unregistered = rights.check(paths)
    rules = context.profile.corpus.cleaning
    screen = Screen(rules)
    with ExitStack() as stack:
        index = stack.enter_context(Index(context.workdir / "curate.sqlite", rules.heldout_fraction))
        near = None
        if rules.near_duplicates:
            folder = context.workdir / "near-duplicates"
            near = stack.enter_context(NearDuplicates(folder, rules.near_duplicates))
        first = with_progress(context, read_documents(paths), "first pass", total=2 * num_documents)
        screened = _screen(first, rights, screen, index, near, context.workdir / "screened")
        index.settle(near.clusters() if near else ())
        documents = read_rows(screened, ["reason"])
        second = with_progress(context, documents, "second pass", start=num_documents, total=2 * num_documents)
        files, metrics = _split(second, index, context.workdir / curated)
        questions, metrics["questions"] = _check_questions(
            context.fetch(raw + "questions.jsonl"), rights, screen, index
        )
    for path in screened:
        path.unlink()
    metrics["masked"] = dict(screen.masked)
    metrics["unregistered_owners"] = unregistered
    if rights.allowed is not None:
        metrics["trainable"] = sorted(rights.allowed)
    return _output(curated, context.workdir / curated, files, questions, {"documents_in": num_documents} | metrics)


def _screen(
    documents: Iterable[Document],
    rights: RightsRules,
    screen: Screen,
    index: Index,
    near: NearDuplicates | None,
    folder: Path,
) -> list[Path]:
    """Write what the screen makes of each document, with the reason where it is rejected; the files.

    What was taken back or may not be trained on is written without its text.
    """
    with DocumentWriter(folder, "screened", extra=["reason"]) as writer:
        for document in documents:
            if reason := rights.reason(document):
                writer.add(replace(document, text=""), reason=reason)
                continue
            screened, reason = screen.apply(document)
            writer.add(screened, reason=reason)
            if not reason and index.learn(screened) and near:
                near.add(text_digest(screened.text), screened.text)
    return writer.files


def _split(
    rows: Iterable[tuple[Document, dict[str, str]]], index: Index, folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Write each screened document to `train`, `heldout` or, with the reason, `rejected`; the files and the counts.

    Raises:
        StageError: nothing is left to train on.
    """
    counts = {"train": Counts(), "heldout": Counts()}
    rejected: Counter[str] = Counter()
    transforms: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {split: stack.enter_context(DocumentWriter(folder, split)) for split in counts}
        aside = stack.enter_context(DocumentWriter(folder, "rejected", extra=["reason"]))
        for document, extra in rows:
            cleaned, verdict = (document, extra["reason"]) if extra["reason"] else index.decide(document)
            transforms.update(cleaned.transforms)
            if verdict in writers:
                writers[verdict].add(cleaned)
                counts[verdict].add(cleaned)
            else:
                aside.add(cleaned, reason=verdict)
                rejected[verdict] += 1
    if not counts["train"].languages:
        raise StageError("no document is left to train on", got=dict(rejected), hint="relax corpus.cleaning")
    metrics = {split: split_counts.metrics() for split, split_counts in counts.items()}
    files = [path for writer in (*writers.values(), aside) for path in writer.files]
    return files, metrics | {"rejected": dict(rejected), "transforms": dict(transforms)}


def _check_questions(
    path: Path, rights: RightsRules, screen: Screen, index: Index
) -> tuple[list[Question], dict[str, int]]:
    """Questions whose split is true of the cleaned documents, and what was found.

    A held-out question whose own text is a document is dropped; so is a trained one whose document is not trained on,
    and any about a fact whose owner has taken back the text that tells it.
    """
    kept = []
    found: Counter[str] = Counter(heldout=0, train=0)
    with path.open(encoding="utf-8") as file:
        for line in file:
            question = Question(**json.loads(line))
            document_text = screen.text_of(question.document_text, question.language)
            split = index.split_of(document_text, question.language)
            if question.owner in rights.withdrawn_owners:
                found["dropped: withdrawn owner"] += 1
            elif question.split == "heldout" and split is not None:
                found["dropped: in the corpus"] += 1
            elif question.split == "train" and split != "train":
                found["dropped: not trained on"] += 1
            else:
                found[question.split] += 1
                kept.append(question)
    return kept, dict(found)


def _output(
    prefix: str, folder: Path, files: list[Path], questions: list[Question], metrics: dict[str, Any]
) -> StageOutput:
    """Store keys of the written files and of questions.jsonl."""
    lines = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    write_atomic(folder / "questions.jsonl", lines)
    return StageOutput({prefix + path.name: path for path in [*files, folder / "questions.jsonl"]}, metrics)


def _corpus_config(profile: Profile, _plan: Plan) -> Mapping[str, Any]:
    corpus = profile.corpus.model_dump(
        mode="json", exclude={"sources": {"__all__": {"domain"}}}
    )  # no part of a document
    opt_outs = {name: corpus["rights"]["opt_outs"][name] for name in ("agents", "retroactive")}
    rights = {"licences": sorted(profile.corpus.rights.declared)} | opt_outs
    return {"demonstration": corpus["demonstration"], "sources": corpus["sources"], "rights": rights}


def _curate_config(profile: Profile, _plan: Plan) -> Mapping[str, Any]:
    rights = profile.corpus.rights.model_dump(
        mode="json", include={"trainable", "registered_owners_only", "on_other", "withdrawn"}
    )
    owners = sorted(owner.name for owner in profile.corpus.owners)
    return {"cleaning": profile.corpus.cleaning.model_dump(mode="json"), "rights": rights, "owners": owners}


def _source_digests(profile: Profile, store: Store) -> Mapping[str, str]:
    digests = {f"source/{source.name}": source_digest(source, store) for source in profile.corpus.sources}
    collected = profile.corpus.rights.opt_outs.collected
    return digests | ({"opt-outs/collected": combine_digests(collected_digests(Path(collected)))} if collected else {})


def _curate_digests(profile: Profile, _store: Store) -> Mapping[str, str]:
    opt_outs = profile.corpus.rights.opt_outs.file
    files = profile.corpus.cleaning.files | ({"opt-outs/file": Path(opt_outs)} if opt_outs else {})
    return {name: file_digest(name, path) for name, path in files.items()}


corpus = Stage(
    name="corpus",
    run=_run_corpus,
    needs=(),
    config=_corpus_config,
    prefix="raw/{dataset}/",
    version=3,
    external_inputs=_source_digests,
)
curate = Stage(
    name="curate",
    run=_run_curate,
    needs=("corpus",),
    config=_curate_config,
    prefix="curated/{dataset}/",
    version=3,
    external_inputs=_curate_digests,
)
