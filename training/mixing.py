"""The mix in token shards: its forecast, by counting every document's tokens, and the comparison with the shards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign.errors import StageError
from sovereign.files import sha256_bytes
from sovereign.lake.documents import Document, count_documents, read_documents
from sovereign.lake.mix import ALL, Count, Facet, Group, MixFile, Request, add_up, mix_key, unlike_the_mix
from sovereign.lake.mix_census import Census
from sovereign.plan import Plan
from sovereign.receipts import model_digest
from sovereign.stages import StageContext
from training.mix import language_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_DOCUMENTS = 1000


def encode(tokenizer: Tokenizer, documents: Iterator[Document]) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its tokens, without the end-of-text mark."""
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        encoded = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
        for document, encoding in zip(batch, encoded, strict=True):
            yield document, encoding.ids


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer as one JSON text."""
    return sha256_bytes(tokenizer.to_str().encode())


def run_tokens(resolved: Plan, sizes: Mapping[str, int]) -> dict[str, int]:
    """Tokens that the run takes, by language where phases weigh languages, else of all.

    Args:
        sizes: tokens of each language in the dataset.

    Raises:
        TrainingError: a phase wants a language that is not there.
    """
    recipe = resolved.recipe
    if not any(phase.mix for phase in recipe.phases):
        return {ALL: recipe.num_tokens}
    return language_tokens(recipe.phases, recipe.seed, recipe.batch_tokens, sizes)


def forecast(context: StageContext, tokenizer: Tokenizer, paths: Sequence[Path]) -> MixFile:
    """The mix that profile and plan lead to, approved by nobody; reads and encodes every training document.

    Args:
        paths: the curated files of training documents.

    Raises:
        PlanError: the mix names what the dataset does not have, or cannot give the tokens of the run.
        TrainingError: see `run_tokens`.
    """
    census = Census(Request.of(context.profile, context.plan))
    num_documents = count_documents(paths)
    for done, (document, tokens) in enumerate(encode(tokenizer, read_documents(paths)), 1):
        census.add(document, len(tokens) + 1)
        if done % _BATCH_DOCUMENTS == 0:
            context.progress("counting tokens for the mix", done=done, total=num_documents, unit="documents")
    return census.decide(
        lambda sizes: run_tokens(context.plan, sizes),
        name=context.dataset,
        dataset=curated_digest(context),
        tokenizer=tokenizer_digest(tokenizer),
    )


def curated_digest(context: StageContext) -> str:
    """Digest of the version of the dataset that the context's stage reads."""
    prefix, approved = f"curated/{context.dataset}/", mix_key(context.dataset)
    outputs = {key: digest for key, digest in context.inputs.items() if key.startswith(prefix) and key != approved}
    return model_digest(outputs)


class Tally:
    """What was written into training shards."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._counts: defaultdict[Facet, Counter[str]] = defaultdict(Counter)

    def add(self, document: Document, num_tokens: int, copies: int) -> None:
        """Count `copies` of a document of `num_tokens` tokens, its end-of-text mark included."""
        self._counts[self._request.facet(document)].update(
            documents=copies, bytes=copies * len(document.text.encode()), tokens=copies * num_tokens
        )

    def compare(self, mix: MixFile) -> None:
        """Compare with what a mix says, to the token.

        Raises:
            StageError: it is something else.
        """
        groups: defaultdict[Group, Counter[str]] = defaultdict(Counter)
        for facet, count in self._counts.items():
            groups[self._request.group(facet)].update(count)
        written = {group: Count(**{name: own[name] for name in Count.model_fields}) for group, own in groups.items()}
        said = {portion.group: portion.shards for portion in mix.groups}
        totals = add_up({facet: count["tokens"] for facet, count in self._counts.items()})
        if written != said or totals != mix.shards:
            differs = [
                group.label for group in sorted(written.keys() | said.keys()) if written.get(group) != said.get(group)
            ]
            raise unlike_the_mix(f"other counts of {', '.join(differs) or 'owners or licences'}")


def refuse_another_tokenizer(mix: MixFile, tokenizer: Tokenizer) -> None:
    """Raises: StageError: the mix was counted with another tokenizer, so its numbers are not those of the shards."""
    if (found := tokenizer_digest(tokenizer)) != mix.tokenizer:
        raise StageError(
            "the approved mix was counted with another tokenizer",
            got=mix.tokenizer,
            expected=found,
            hint="sovereign lake approve SITE --by NAME counts and approves it again",
        )
