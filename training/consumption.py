"""What training took of every owner's text by quality tier: the ledger's tokens, with what the shards say of documents.

Needs neither torch nor the model nor the dataset, of which there may be a later version: the order of the data is a
pure function (training/order.py), and the shards have each document's owners, licence and quality. Memory: 8 bytes for
each document of the training data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
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
    tiers_of: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.int64]],
    tiers: list[str],
) -> Consumed:
    """Tokens that the run of `ledger` took of each owner's documents.

    Args:
        tiers_of: places in `tiers` by quality, NaN where it is not measured.

    Raises:
        TrainingError: the sums are not the ledger's, or a shard is of a version that did not write quality.
    """
    taken = _ByDocument()
    collect(taken, stream, ledger["batch_tokens"], up_to_step=ledger["steps"])
    consumed: Consumed = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for shard, tokens in taken.tokens.items():
        counts, names = shard.owner_counts, shard.owner_names
        owner_tier_count = [shard.owners, np.repeat(tiers_of(shard.qualities), counts), np.repeat(counts, counts)]
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


def licences_by_owner(shards: Iterable[Shard]) -> dict[str, set[str]]:
    """Licences of the documents of every owner of whom there is a document, whether training took of it or not.

    Raises:
        TrainingError: a shard is of a version that did not write licences.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for shard in shards:
        pairs = np.stack([shard.owners, np.repeat(shard.licences, shard.owner_counts)])
        owners, licences = shard.owner_names, shard.licence_names
        for owner, licence in np.unique(pairs, axis=1).T.tolist():
            found[owners[owner]].add(licences[licence])
    return dict(found)
