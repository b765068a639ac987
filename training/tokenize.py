"""Stage `tokenize`: train the tokenizer on the curated documents and write them as token shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.lake.demonstration import LANGUAGES
from sovereign.lake.documents import Document, count_documents, read_documents
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.shards import Shard, ShardWriter
from training.tokenizer import END_OF_TEXT, LanguageSample, compression, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLITS = ("train", "heldout")
SHARD_BYTES = 2**30
"""Text in one shard, about; documents go to shards by digest, so that each shard is a random part of the corpus."""
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
    sample = LanguageSample(languages_of(context.profile))
    for document in read_documents(paths["train"]):
        sample.add(document.text, document.language)
    context.progress("training the tokenizer")
    tokenizer = train_tokenizer(sample.texts(), context.plan.model.vocab_size)
    folder = context.workdir / "tokens"
    files = save_tokenizer(tokenizer, folder, context.plan.model.sequence_length)
    metrics: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size()}
    for split in SPLITS:
        shards = _write_shards(context, tokenizer, split, paths[split], folder)
        files += [shard.path for shard in shards]
        metrics[split] = _count(shards)
    prefix = f"models/{context.dataset}/tokens/"
    return StageOutput({prefix + path.name: path for path in files}, metrics)


def _write_shards(
    context: StageContext, tokenizer: Tokenizer, split: str, paths: Sequence[Path], folder: Path
) -> list[Shard]:
    """Write the documents of one split, batch by batch."""
    num_documents, done = count_documents(paths), 0
    num_shards = 1 + sum(path.stat().st_size for path in paths) * 3 // SHARD_BYTES  # text is compressed about 3 times
    names = [folder / f"{split}-{number:05}.bin" for number in range(num_shards)]
    end = tokenizer.get_vocab()[END_OF_TEXT]
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(name, tokenizer.get_vocab_size(), end)) for name in names]
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
    """Totals, and tokens and bytes per token by language."""
    num_bytes: dict[str, int] = {}
    num_tokens: dict[str, int] = {}
    for shard in shards:
        for sums, values in ((num_bytes, shard.num_bytes), (num_tokens, shard.lengths)):
            for language, total in shard.by_language(values).items():
                sums[language] = sums.get(language, 0) + total
    return {
        "documents": sum(shard.num_documents for shard in shards),
        "tokens": sum(num_tokens.values()),
        "bytes": sum(num_bytes.values()),
        "tokens_by_language": num_tokens,
        "bytes_per_token": compression(num_bytes, num_tokens),
    }


def _config(profile: Profile, plan: Plan) -> Mapping[str, Any]:
    return {
        "vocab_size": plan.model.vocab_size,
        "sequence_length": plan.model.sequence_length,
        "languages": sorted(languages_of(profile)),
    }


tokenize = Stage(name="tokenize", run=_run, needs=("curate",), config=_config, prefix="models/{dataset}/tokens/")
