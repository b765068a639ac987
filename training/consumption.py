"""What training took of every owner's text by quality tier: the ledger's tokens, joined with the documents' quality.

Needs neither torch nor the model: the order of the data is a pure function (training/order.py). Memory: 9 bytes for
each document of the training data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.lake.documents import Document
from training.ledger import collect
from training.order import TokenStream
from training.shards import Shard

Consumed = dict[str, dict[str, dict[int, int]]]
"""Tokens by owner, tier, and number of the document's owners; a document counts whole for each of its owners."""


class _ByDocument:
    """Tokens of each document, by shard."""

    def __init__(self) -> None:
        self.tokens: dict[Shard, npt.NDArray[np.int64]] = {}

    def add(self, shard: Shard, tokens: npt.NDArray[np.int64]) -> None:
        if shard in self.tokens:
            self.tokens[shard] += tokens
        else:
            self.tokens[shard] = tokens.copy()


def consumed_by_tier(
    stream: TokenStream,
    ledger: Mapping[str, Any],
    documents: Iterable[Document],
    tier_of: Callable[[Document], int],
    tiers: list[str],
) -> Consumed:
    """Tokens that the run of `ledger` took of each owner's documents.

    Args:
        documents: those that the shards were made of, in the order of their files.
        tier_of: a document's place in `tiers`.

    Raises:
        TrainingError: the documents are not those of the shards, or the sums are not the ledger's.
    """
    numbers = _tiers_of_documents(stream.shards, documents, tier_of)
    taken = _ByDocument()
    collect(taken, stream, ledger["batch_tokens"], up_to_step=ledger["steps"])
    consumed: Consumed = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for shard, tokens in taken.tokens.items():
        counts, names = shard.owner_counts, shard.owner_names
        owner_tier_count = [shard.owners, np.repeat(numbers[shard], counts), np.repeat(counts, counts)]
        keys = np.stack([np.asarray(values, np.int64) for values in owner_tier_count])
        groups, places = np.unique(keys, axis=1, return_inverse=True)
        sums = np.zeros(groups.shape[1], np.int64)
        np.add.at(sums, places.ravel(), np.repeat(tokens, counts))
        for (owner, tier, count), total in zip(groups.T.tolist(), sums.tolist(), strict=True):
            if total:
                consumed[names[owner]][tiers[tier]][count] += total
    found = {owner: sum(sum(own.values()) for own in by_tier.values()) for owner, by_tier in consumed.items()}
    expected = {owner: own["tokens"] for owner, own in ledger["by_owner"].items()}
    if found != expected:
        raise TrainingError("what training took of the owners' documents is not what its ledger says")
    return {owner: {tier: dict(own) for tier, own in by_tier.items()} for owner, by_tier in consumed.items()}


def _tiers_of_documents(
    shards: Iterable[Shard], documents: Iterable[Document], tier_of: Callable[[Document], int]
) -> dict[Shard, npt.NDArray[np.uint8]]:
    """The tier of every document of each shard, shape [num_documents].

    A shard has its documents in the order of the files that it was made of, so the next document of the files is the
    next one of some shards: of several, or of one several times, where a mix took copies of it, and of none where the
    mix left it out.
    """
    found = {shard: np.zeros(shard.num_documents, np.uint8) for shard in shards}
    ids = {shard: enumerate(_ids(shard)) for shard in found}
    heads: defaultdict[str, list[tuple[Shard, int]]] = defaultdict(list)

    def advance(shard: Shard) -> None:
        if (following := next(ids[shard], None)) is not None:
            number, doc_id = following
            heads[doc_id].append((shard, number))

    for shard in found:
        advance(shard)
    for document in documents:
        while copies := heads.pop(document.doc_id, None):
            tier = tier_of(document)
            for shard, number in copies:
                found[shard][number] = tier
                advance(shard)
    if heads:
        raise TrainingError(
            "the documents are not those that the model was trained on",
            got=f"{next(iter(heads))} is in the shards only, or in another order",
            hint="sovereign train PROFILE trains on the documents that are there now",
        )
    return found


def _ids(shard: Shard, block: int = 1000) -> Iterable[str]:
    for start in range(0, shard.num_documents, block):
        yield from shard.document_ids(range(start, min(start + block, shard.num_documents)))
