"""Bits per byte on held-out text while training goes on: on all of it, by language, and by dataset (the source).

The same rows each time, so that the numbers can be compared along a run, from all shards alike. They are rows as in
training, cut without regard to documents; stage `evaluate` measures whole documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from training.shards import Shard

ROWS = 64
"""Rows of all held-out text that are measured."""
GROUP_ROWS = 8
"""Rows of each language and each dataset."""
_DOCUMENTS = 20_000
"""Documents, spread evenly over the shards, among which those of the groups are looked for."""

NAME = "heldout_bits_per_byte"
Evaluate = Callable[[npt.NDArray[np.int64]], float]


@dataclass(frozen=True)
class _Group:
    rows: npt.NDArray[np.int64]
    """Shape [rows, tokens]."""
    bytes_per_token: float

    def bits_per_byte(self, evaluate: Evaluate) -> float:
        return evaluate(self.rows) / math.log(2) / self.bytes_per_token


class Heldout:
    """The rows that are measured."""

    def __init__(self, shards: Sequence[Shard], sequence_length: int) -> None:
        """Raises: TrainingError: there is less held-out text than one row."""
        num_tokens = sum(shard.num_tokens for shard in shards)
        num_rows = num_tokens // sequence_length
        if num_rows == 0:
            raise TrainingError(
                "there is too little held-out text to measure anything",
                got=f"{num_tokens} tokens",
                expected=f"at least model.sequence_length = {sequence_length}",
                hint="raise corpus.cleaning.heldout_fraction, or add text",
            )
        count = min(ROWS, num_rows)
        places = [number * num_rows // count * sequence_length for number in range(count)]
        rows = np.stack([_read(shards, place, sequence_length) for place in places])
        self._groups = {NAME: _Group(rows, _compression(shards))}
        for name, documents in sorted(_groups(shards).items()):
            self._groups[f"{NAME}/{name}"] = _group(documents, sequence_length)

    def measure(self, evaluate: Evaluate) -> dict[str, float]:
        """`heldout_bits_per_byte` and the same `/language/<tag>` and `/dataset/<source>`.

        Args:
            evaluate: mean loss (nats) of rows of tokens; every rank calls it with the same rows.
        """
        return {name: group.bits_per_byte(evaluate) for name, group in self._groups.items()}


def _read(shards: Sequence[Shard], place: int, count: int) -> npt.NDArray[np.int64]:
    """`count` tokens from `place` on, the shards taken as one after the other; shape [count]."""
    parts = []
    for shard in shards:
        if place < shard.num_tokens and place + count > 0:
            parts.append(shard.tokens[max(0, place) : place + count])
        place -= shard.num_tokens
    return np.concatenate(parts).astype(np.int64)


def _groups(shards: Sequence[Shard]) -> Mapping[str, list[tuple[Shard, int]]]:
    """Documents (shard, number) by `language/<tag>` and `dataset/<source>`, of all shards in turn."""
    groups: dict[str, list[tuple[int, Shard, int]]] = {}
    share = max(1, _DOCUMENTS // len(shards))
    for shard in shards:
        languages, names = shard.languages, shard.language_names
        chosen = np.unique(np.linspace(0, shard.num_documents - 1, min(share, shard.num_documents), dtype=int))
        for turn, number in enumerate(chosen):
            language = names[languages[number]]
            source = shard.document_id(int(number)).partition("/")[0]
            for name in (f"language/{language}", f"dataset/{source}"):
                groups.setdefault(name, []).append((turn, shard, int(number)))
    return {name: [one[1:] for one in sorted(found, key=itemgetter(0))] for name, found in groups.items()}


def _group(documents: Sequence[tuple[Shard, int]], sequence_length: int) -> _Group:
    taken, num_tokens, num_bytes = [], 0, 0
    for shard, number in documents:
        end = int(shard.ends[number])
        start = int(shard.ends[number - 1]) if number else 0
        taken.append(shard.tokens[start:end].astype(np.int64))
        num_tokens += end - start
        num_bytes += int(shard.num_bytes[number])
        if num_tokens >= GROUP_ROWS * sequence_length:
            break
    return _Group(_rows(np.concatenate(taken), sequence_length)[:GROUP_ROWS], num_bytes / num_tokens)


def _rows(tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Rows of `length` tokens, a rest left out; one shorter row where there are fewer."""
    length = min(length, len(tokens))
    num_rows = len(tokens) // length
    return tokens[: num_rows * length].reshape(num_rows, length)


def _compression(shards: Sequence[Shard]) -> float:
    return sum(int(shard.num_bytes.sum()) for shard in shards) / sum(shard.num_tokens for shard in shards)
