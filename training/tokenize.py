"""Stage `tokenize`: train the tokenizer on the curated documents and write them as token shards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from sovereign.base import base_inputs
from sovereign.errors import StageError
from sovereign.files import write_atomic
from sovereign.lake.demonstration import LANGUAGES
from sovereign.lake.documents import Document, count_documents, read_documents
from sovereign.lake.mix import Group, MixFile, Request, approved_mix, mix_key
from sovereign.plan import Plan, plan
from sovereign.profile import Profile
from sovereign.stages import Progress, Stage, StageContext, StageOutput, load_stage, read_receipt
from sovereign.store import Store
from training import environment
from training.mixing import Tally, encode, forecast, refuse_another_tokenizer
from training.shards import Shard, ShardWriter
from training.token_ids import control_marks, text_tokenizer
from training.tokenizer import (
    END_OF_TEXT,
    SAMPLE_BYTES,
    balanced,
    draw_sample,
    save_tokenizer,
    text_bytes,
    train_tokenizer,
)
from training.tokenizer_report import MEASURED_BYTES, check_parity, make_report

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLITS = ("train", "heldout")
SHARD_BYTES, SHARD_DOCUMENTS = 2**30, 2**20
"""Text and documents in one shard, about; documents go to shards by digest, so that each shard is a random part of the
corpus. The number of documents bounds the memory of a training process (training/order.py)."""
REPORT = "tokenizer_report.json"
_PROGRESS_EVERY = 1000

Made: TypeAlias = "tuple[Tokenizer, int, dict[str, list[bytes]]]"
"""The tokenizer for text, its end-of-text mark, and the sample that it was trained on, by language."""


def languages_of(profile: Profile) -> set[str]:
    """The languages in which a profile promises text."""
    languages = {source.language for source in profile.corpus.sources}
    return languages | set(LANGUAGES) if profile.corpus.demonstration else languages


def _run(context: StageContext) -> StageOutput:
    environment.prepare(context.workdir, threads=0, world_size=1)
    paths = _curated(context)
    folder = context.workdir / "tokens"
    shutil.rmtree(folder, ignore_errors=True)  # shards of another run must not be taken for this one's
    (tokenizer, end, sample), mix = _settle(context, paths["train"], folder)
    report = _measure(context, tokenizer, paths["heldout"], sample)
    check_parity(report, context.profile.model.max_tokenizer_parity)
    write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    files = sorted(folder.iterdir())
    metrics: dict[str, Any] = {"tokenizer": {name: report[name] for name in ("parity_measure", "languages")}}
    for split in SPLITS:
        shards = _write_shards(context, tokenizer, end, split, paths[split], folder, mix if split == "train" else None)
        files += [shard.path for shard in shards]
        metrics[split] = _count(shards)
    metrics["mix"] = mix.summary() if mix else {"approved_by": None, "epochs": "every document once in an epoch"}
    prefix = f"models/{context.dataset}/tokens/"
    return StageOutput({prefix + path.name: path for path in files}, metrics)


def propose_mix(profile: Profile, store: Store, workdir: Path, stream: TextIO) -> MixFile:
    """The mix that profile and curated dataset lead to, with the tokenizer that this stage will make; stores nothing.

    Args:
        workdir: scratch.
        stream: for progress, as a stage's.

    Raises:
        StageError: the dataset is not made yet, or no tokenizer can be made of it.
        PlanError: see `training.mixing.forecast`.
    """
    curated = read_receipt(store, load_stage("curate"), profile.name)
    if curated is None:
        raise StageError(f"dataset {profile.name} is not made yet", hint="sovereign stage curate PROFILE")
    inputs = {**base_inputs(profile, store), **curated.outputs}
    context = StageContext(profile, plan(profile), store, workdir, Progress("mix", stream), inputs)
    environment.prepare(workdir, threads=0, world_size=1)
    paths = _curated(context)["train"]
    return _forecast(context, paths, workdir / "tokens")[1]


def _curated(context: StageContext) -> dict[str, list[Path]]:
    """The dataset's files by split."""
    return {
        split: [context.fetch(key) for key in sorted(context.inputs) if key.rpartition("/")[2].startswith(f"{split}-")]
        for split in SPLITS
    }


def _settle(context: StageContext, paths: Sequence[Path], folder: Path) -> tuple[Made, MixFile | None]:
    """The tokenizer, and the mix that the shards are made by: the approved or the profile's; None: every document once.

    Raises:
        StageError: see `make_tokenizer`; or the approved mix was counted with another tokenizer.
    """
    if (key := mix_key(context.dataset)) in context.inputs:
        mix = MixFile.from_bytes(context.fetch(key).read_bytes(), key)
        made = make_tokenizer(context, paths, folder, mix.untaken)
        refuse_another_tokenizer(mix, made[0])
        return made, mix
    return _forecast(context, paths, folder) if context.profile.mix else (make_tokenizer(context, paths, folder), None)


def _forecast(context: StageContext, paths: Sequence[Path], folder: Path) -> tuple[Made, MixFile]:
    """The tokenizer, and the mix counted with it.

    How many tokens a group has is known from the tokenizer only. A group of which no token is taken must not teach it,
    so then it is made again without.
    """
    untaken: frozenset[Group] = frozenset()
    while True:
        made = make_tokenizer(context, paths, folder, untaken)
        mix = forecast(context, made[0], paths)
        if mix.untaken <= untaken:
            return made, mix
        untaken |= mix.untaken


def refuse_empty(languages: Iterable[str], sizes: Mapping[str, int]) -> None:
    """Raises: StageError: one of the `languages` has no text."""
    if empty := sorted(set(languages) - sizes.keys()):
        raise StageError(
            f"no text to train on in: {', '.join(empty)}",
            got=", ".join(f"{language}: {size} bytes" for language, size in sizes.items()),
            expected="at least one document in each language of the profile",
            hint="correct the source's folder or language; `sovereign lake rejected SITE` shows what was set aside",
        )


def _measure(
    context: StageContext, tokenizer: Tokenizer, heldout: Sequence[Path], sample: Mapping[str, Sequence[bytes]]
) -> dict[str, Any]:
    """The tokenizer's report."""
    context.progress("measuring the tokenizer")
    unseen = draw_sample(read_documents(heldout), text_bytes(read_documents(heldout)), MEASURED_BYTES)
    return make_report(tokenizer, _decode(unseen), _decode(sample), context.profile.corpus.demonstration)


def _decode(sample: Mapping[str, Sequence[bytes]]) -> dict[str, list[str]]:
    return {language: [text.decode(errors="ignore") for text in texts] for language, texts in sample.items()}


def make_tokenizer(
    context: StageContext, paths: Sequence[Path], folder: Path, untaken: Set[Group] = frozenset()
) -> Made:
    """The tokenizer for text, its end-of-text mark, and the sample it was trained on: the base's, or trained here.

    It is saved in `folder`. What the profile's mix does not take at all is not in the sample.

    Args:
        paths: the curated files of training documents.
        untaken: groups that have a weight, but no token of the run.

    Raises:
        StageError: a language of the profile has no text, or the text does not support so many tokens.
    """
    context.progress("reading a sample")
    request = Request.of(context.profile, context.plan)
    sizes = text_bytes(read_documents(paths))
    refuse_empty(languages_of(context.profile), sizes)

    def teaches(document: Document) -> bool:
        return request.wants(document) and request.group(request.facet(document)) not in untaken

    if request.mix is not None:
        sizes = text_bytes(filter(teaches, read_documents(paths)))
        if not sizes:
            raise StageError("the mix takes no training document", got=request.mix.model_dump(exclude_none=True))
    sample = draw_sample(filter(teaches, read_documents(paths)), sizes, SAMPLE_BYTES)
    context.progress("training the tokenizer")
    if context.plan.base is not None:
        from training.base_tokenizer import save_base_tokenizer

        saved = save_base_tokenizer(context, balanced(sample), folder)
        assert isinstance(saved.eos_token_id, int)
        return text_tokenizer(saved.backend_tokenizer, control_marks(saved)), saved.eos_token_id, sample
    tokenizer = train_tokenizer(balanced(sample), context.plan.model.vocab_size)
    save_tokenizer(tokenizer, folder, context.plan.model.sequence_length)
    return text_tokenizer(tokenizer), tokenizer.get_vocab()[END_OF_TEXT], sample


def _write_shards(
    context: StageContext,
    tokenizer: Tokenizer,
    end: int,
    split: str,
    paths: Sequence[Path],
    folder: Path,
    mix: MixFile | None,
) -> list[Shard]:
    """Write the documents of one split, batch by batch, each as often as the mix says."""
    num_documents = count_documents(paths)
    num_shards = _num_shards(paths, num_documents, mix)
    names = [folder / f"{split}-{number:05}.bin" for number in range(num_shards)]
    copies_of: Callable[[Document], int] = mix.copies() if mix else lambda _: 1
    tally = Tally(mix.request) if mix else None
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(name, context.plan.model.vocab_size, end)) for name in names]
        for done, (document, tokens) in enumerate(encode(tokenizer, read_documents(paths)), 1):
            copies, num_bytes = copies_of(document), len(document.text.encode())
            for copy in range(copies):
                writers[_shard_of(document.doc_id, copy, num_shards)].add(
                    tokens,
                    doc_id=document.doc_id,
                    language=document.language,
                    owners=document.owners,
                    licence=document.licence,
                    quality=document.quality,
                    num_bytes=num_bytes,
                )
            if tally:
                tally.add(document, len(tokens) + 1, copies)
            if done % _PROGRESS_EVERY == 0 or done == num_documents:
                context.progress(f"writing {split} shards", done=done, total=num_documents, unit="documents")
    if mix and tally:
        tally.compare(mix)
    return [Shard(name) for name in names]


def _num_shards(paths: Sequence[Path], num_documents: int, mix: MixFile | None) -> int:
    size = sum(path.stat().st_size for path in paths) * 3  # text is compressed about 3 times
    if mix and mix.request.mix:
        size = sum(portion.shards.bytes for portion in mix.groups)
        num_documents = sum(portion.shards.documents for portion in mix.groups)
    return 1 + max(size // SHARD_BYTES, num_documents // SHARD_DOCUMENTS)


def _shard_of(doc_id: str, copy: int, num_shards: int) -> int:
    """Copies of a document lie in different shards as a rule, so that training sees them far from each other."""
    digest = hashlib.sha256((f"{doc_id}\0{copy}" if copy else doc_id).encode()).digest()
    return int.from_bytes(digest[:8]) % num_shards


def _count(shards: Sequence[Shard]) -> dict[str, Any]:
    """Totals, and tokens by language."""
    by_language: Counter[str] = Counter()
    for shard in shards:
        by_language.update(shard.by_language(shard.lengths))
    return {
        "documents": sum(shard.num_documents for shard in shards),
        "tokens": by_language.total(),
        "bytes": sum(int(shard.num_bytes.sum()) for shard in shards),
        "tokens_by_language": dict(sorted(by_language.items())),
    }


def _config(profile: Profile, resolved: Plan) -> Mapping[str, Any]:
    config: dict[str, Any] = {
        "vocab_size": resolved.model.vocab_size,
        "sequence_length": resolved.model.sequence_length,
        "languages": sorted(languages_of(profile)),
        "max_parity": profile.model.max_tokenizer_parity,
    }
    if resolved.base:
        config["new_tokens"] = resolved.base.new_tokens
    if profile.mix is not None and profile.governance.mix_approval == "none":  # else the approved mix is an input
        config["mix"] = Request.of(profile, resolved).model_dump(mode="json")
    return config


def _external_inputs(profile: Profile, store: Store) -> Mapping[str, str]:
    return {**base_inputs(profile, store), **approved_mix(profile, store)}


tokenize = Stage(
    name="tokenize",
    run=_run,
    needs=("curate",),
    config=_config,
    prefix="models/{dataset}/tokens/",
    version=4,
    external_inputs=_external_inputs,
)
