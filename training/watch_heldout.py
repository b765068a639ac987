"""Bits per byte on held-out text while training goes on: on all of it, by language, and by dataset (the source).

The same rows each time, so that the numbers can be compared along a run. They are rows as in training, cut without
regard to documents; stage `evaluate` measures whole documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
        tokens = np.concatenate([shard.tokens[: ROWS * sequence_length] for shard in shards]).astype(np.int64)
        num_rows = min(ROWS, len(tokens) // sequence_length)
        if num_rows == 0:
            raise TrainingError(
                "there is too little held-out text to measure anything",
                got=f"{len(tokens)} tokens",
                expected=f"at least model.sequence_length = {sequence_length}",
                hint="raise corpus.cleaning.heldout_fraction, or add text",
            )
        self._groups = {
            NAME: _Group(_rows(tokens[: num_rows * sequence_length], sequence_length), _compression(shards))
        }
        for name, documents in sorted(_groups(shards).items()):
            self._groups[f"{NAME}/{name}"] = _group(documents, sequence_length)

    def measure(self, evaluate: Evaluate) -> dict[str, float]:
        """`heldout_bits_per_byte` and the same `/language/<tag>` and `/dataset/<source>`.

        Args:
            evaluate: mean loss (nats) of rows of tokens; every rank calls it with the same rows.
        """
        return {name: group.bits_per_byte(evaluate) for name, group in self._groups.items()}


def _groups(shards: Sequence[Shard]) -> Mapping[str, list[tuple[Shard, int]]]:
    """Documents (shard, number) by `language/<tag>` and `dataset/<source>`."""
    groups: dict[str, list[tuple[Shard, int]]] = {}
    share = max(1, _DOCUMENTS // len(shards))
    for shard in shards:
        languages, names = shard.languages, shard.language_names
        for number in np.unique(np.linspace(0, shard.num_documents - 1, min(share, shard.num_documents), dtype=int)):
            language = names[languages[number]]
            source = shard.document_id(int(number)).partition("/")[0]
            for name in (f"language/{language}", f"dataset/{source}"):
                groups.setdefault(name, []).append((shard, int(number)))
    return groups


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
