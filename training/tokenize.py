"""Stage `tokenize`: train the tokenizer on the curated documents and write them as token shards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.base import base_inputs
from sovereign.errors import StageError
from sovereign.files import write_atomic
from sovereign.lake.demonstration import LANGUAGES
from sovereign.lake.documents import Document, count_documents, read_documents
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.shards import Shard, ShardWriter
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
_BATCH_DOCUMENTS = 1000


def languages_of(profile: Profile) -> set[str]:
    """The languages in which a profile promises text."""
    languages = {source.language for source in profile.corpus.sources}
    return languages | set(LANGUAGES) if profile.corpus.demonstration else languages


def _run(context: StageContext) -> StageOutput:
    environment.prepare(context.workdir, threads=0, world_size=1)
    paths = {
        split: [context.fetch(key) for key in sorted(context.inputs) if key.rpartition("/")[2].startswith(f"{split}-")]
        for split in SPLITS
    }
    context.progress("reading a sample")
    sizes = text_bytes(read_documents(paths["train"]))
    refuse_empty(languages_of(context.profile), sizes)
    sample = draw_sample(read_documents(paths["train"]), sizes, SAMPLE_BYTES)
    context.progress("training the tokenizer")
    folder = context.workdir / "tokens"
    shutil.rmtree(folder, ignore_errors=True)  # shards of another run must not be taken for this one's
    tokenizer, end = _make_tokenizer(context, sample, folder)
    report = _measure(context, tokenizer, paths["heldout"], sample)
    check_parity(report, context.profile.model.max_tokenizer_parity)
    write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    files = sorted(folder.iterdir())
    metrics: dict[str, Any] = {"tokenizer": {name: report[name] for name in ("parity_measure", "languages")}}
    for split in SPLITS:
        shards = _write_shards(context, tokenizer, end, split, paths[split], folder)
        files += [shard.path for shard in shards]
        metrics[split] = _count(shards)
    prefix = f"models/{context.dataset}/tokens/"
    return StageOutput({prefix + path.name: path for path in files}, metrics)


def refuse_empty(languages: Iterable[str], sizes: Mapping[str, int]) -> None:
    """Raises: StageError: one of the `languages` has no text."""
    if empty := sorted(set(languages) - sizes.keys()):
        raise StageError(
            f"no text to train on in: {', '.join(empty)}",
            got=", ".join(f"{language}: {size} bytes" for language, size in sizes.items()),
            expected="at least one document in each language of the profile",
            hint="correct the source's folder or language, or relax corpus.cleaning",
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


def _make_tokenizer(
    context: StageContext, sample: Mapping[str, Sequence[bytes]], folder: Path
) -> tuple[Tokenizer, int]:
    """The tokenizer, and its end-of-text mark: the base's where there is one, else trained here. Saved in `folder`."""
    if context.plan.base is not None:
        from training.base_tokenizer import save_base_tokenizer

        saved = save_base_tokenizer(context, balanced(sample), folder)
        assert isinstance(saved.eos_token_id, int)
        return saved.backend_tokenizer, saved.eos_token_id
    tokenizer = train_tokenizer(balanced(sample), context.plan.model.vocab_size)
    save_tokenizer(tokenizer, folder, context.plan.model.sequence_length)
    return tokenizer, tokenizer.get_vocab()[END_OF_TEXT]


def _write_shards(
    context: StageContext, tokenizer: Tokenizer, end: int, split: str, paths: Sequence[Path], folder: Path
) -> list[Shard]:
    """Write the documents of one split, batch by batch."""
    num_documents, done = count_documents(paths), 0
    size = sum(path.stat().st_size for path in paths) * 3  # text is compressed about 3 times
    num_shards = 1 + max(size // SHARD_BYTES, num_documents // SHARD_DOCUMENTS)
    names = [folder / f"{split}-{number:05}.bin" for number in range(num_shards)]
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(name, context.plan.model.vocab_size, end)) for name in names]
        for batch in _batches(read_documents(paths)):
            encoded = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
            for document, encoding in zip(batch, encoded, strict=True):
                digest = hashlib.sha256(document.doc_id.encode()).digest()
                writers[int.from_bytes(digest[:8]) % num_shards].add(
                    encoding.ids,
                    doc_id=document.doc_id,
                    language=document.language,
                    owners=document.owners,
                    num_bytes=len(document.text.encode()),
                )
            done += len(batch)
            context.progress(f"writing {split} shards", done=done, total=num_documents, unit="documents")
    return [Shard(name) for name in names]


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        yield batch


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


def _config(profile: Profile, plan: Plan) -> Mapping[str, Any]:
    return {
        "vocab_size": plan.model.vocab_size,
        "sequence_length": plan.model.sequence_length,
        "languages": sorted(languages_of(profile)),
        "max_parity": profile.model.max_tokenizer_parity,
    } | ({"new_tokens": plan.base.new_tokens} if plan.base else {})


tokenize = Stage(
    name="tokenize",
    run=_run,
    needs=("curate",),
    config=_config,
    prefix="models/{dataset}/tokens/",
    version=2,
    external_inputs=base_inputs,
)
