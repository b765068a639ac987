"""The order in which training sees tokens: a pure function of the seed and the step, whatever the number of ranks.

An epoch is every token once: the shards in a random order, in each one its documents in a random order, one after the
other. Epochs follow each other without a gap in one endless stream; step `s` takes the next rows of it. A row is
`sequence_length` tokens and does not begin at a document's start as a rule, so that no token is lost or seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from training.shards import Shard

_KEPT_LAYOUTS = 2


class _Layout:
    """The documents of one shard in their order of one epoch."""

    def __init__(self, shard: Shard, seed: Sequence[int]) -> None:
        self._tokens = shard.tokens
        order = np.random.default_rng(seed).permutation(shard.num_documents)
        lengths = shard.lengths[order]
        self._ends = np.cumsum(lengths)
        self._shifts = shard.ends[order] - self._ends
        """From a place in this order to the place in the shard, by document."""

    def copy(self, start: int, into: npt.NDArray[np.int64]) -> int:
        """Fill `into` from place `start` on; returns how many tokens there were."""
        filled, number = 0, int(np.searchsorted(self._ends, start, side="right"))
        while filled < len(into) and number < len(self._ends):
            end = min(int(self._ends[number]), start + len(into))
            place = start + filled
            shift = int(self._shifts[number])
            into[filled : end - start] = self._tokens[place + shift : end + shift]
            filled = end - start
            number += 1
        return filled


class TokenStream:
    """The endless stream of a set of shards. Memory grows with the documents of two shards, not with the corpus."""

    def __init__(self, shards: Sequence[Shard], seed: int) -> None:
        """Raises: TrainingError: there is no token."""
        self._shards = [shard for shard in shards if shard.num_tokens]
        self._seed = seed
        self.num_tokens = sum(shard.num_tokens for shard in self._shards)
        """Tokens in one epoch."""
        if not self.num_tokens:
            raise TrainingError("the token shards are empty", hint="run stage tokenize again")
        self._layouts: dict[tuple[int, int], _Layout] = {}

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` tokens from place `start` on; shape [count]."""
        tokens = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, place = divmod(start + filled, self.num_tokens)
            layout, offset = self._find(epoch, place)
            filled += layout.copy(place - offset, tokens[filled:])
        return tokens

    def rows(
        self, step: int, num_rows: int, sequence_length: int, *, rank: int, world_size: int
    ) -> npt.NDArray[np.int64]:
        """This rank's part of step `step`'s rows; shape [num_rows / world_size, sequence_length]."""
        own = num_rows // world_size
        first = step * num_rows + rank * own
        return self.read(first * sequence_length, own * sequence_length).reshape(own, sequence_length)

    def _find(self, epoch: int, place: int) -> tuple[_Layout, int]:
        """The layout that holds `place` of the epoch, and where it begins."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._shards))
        offset = 0
        for number in map(int, order):
            if place < offset + self._shards[number].num_tokens:
                break
            offset += self._shards[number].num_tokens
        key = (epoch, number)
        if key not in self._layouts:
            while len(self._layouts) >= _KEPT_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            self._layouts[key] = _Layout(self._shards[number], [self._seed, epoch, number])
        return self._layouts[key], offset
