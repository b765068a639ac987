"""Phases with a mix: every row of a phase has one language, and the languages share the rows by the phase's weights.

Which language a row has follows from its number in the phase by van der Corput's sequence in base 2, shifted in each
block of rows by a number drawn from the seed: any rows that follow each other are near the weights, a whole block meets
them (Niederreiter 1992, Random Number Generation and Quasi-Monte Carlo Methods, chapter 3). Each language has a stream
of its own (training/order.py), which goes on from phase to phase; so a language with a high weight is seen more often,
and the order stays a pure function of seed and step. A phase without a mix has every language by its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.plan import RunPhase
from training.order import Piece, TokenStream
from training.shards import Shard

_BITS = 10
BLOCK_ROWS = 2**_BITS
"""Weights are met to one part in so many."""
_REVERSED = np.array([int(f"{number:0{_BITS}b}"[::-1], 2) for number in range(BLOCK_ROWS)], dtype=np.int64)


@dataclass(frozen=True)
class _Phase:
    """Where a phase lies in the stream, and who has its rows."""

    start: int
    """Place of its first token."""
    num_rows: int
    length: int
    """Tokens in a row."""
    seed: tuple[int, int]
    bounds: npt.NDArray[np.int64]
    """Of the languages' parts of a block, from 0 to BLOCK_ROWS; shape [languages + 1]."""

    @property
    def stop(self) -> int:
        """Place after its last token."""
        return self.start + self.num_rows * self.length

    def languages(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The language of each row from `start` to `stop` - 1; shape [rows]."""
        rows = np.arange(start, stop)
        blocks, first = rows // BLOCK_ROWS, start // BLOCK_ROWS
        shifts = [
            int(np.random.PCG64([*self.seed, block]).random_raw()) % BLOCK_ROWS
            for block in range(first, -(-stop // BLOCK_ROWS))
        ]
        places = _REVERSED[rows % BLOCK_ROWS] ^ np.array(shifts, dtype=np.int64)[blocks - first]
        numbers: npt.NDArray[np.int64] = np.searchsorted(self.bounds, places, side="right") - 1
        return numbers

    def counts(self, num_rows: int) -> npt.NDArray[np.int64]:
        """How many of the first `num_rows` rows each language has; shape [languages]."""
        blocks, rest = divmod(num_rows, BLOCK_ROWS)
        whole: npt.NDArray[np.int64] = np.diff(self.bounds)
        counts: npt.NDArray[np.int64] = blocks * whole + np.bincount(
            self.languages(num_rows - rest, num_rows), minlength=len(whole)
        )
        return counts


def _lay_out(phases: Sequence[RunPhase], seed: int, batch_tokens: int, sizes: Mapping[str, int]) -> list[_Phase]:
    """The phases one after the other.

    Args:
        sizes: tokens of each language in the data, in the order of languages.
    """
    laid: list[_Phase] = []
    start = 0
    for number, phase in enumerate(phases):
        tokens = phase.num_steps * batch_tokens
        bounds = _bounds(number, phase.mix, sizes)
        rows = tokens // phase.sequence_length
        laid.append(_Phase(start, rows, phase.sequence_length, (seed, number), bounds))
        start += tokens
    return laid


def _bounds(number: int, mix: Mapping[str, float] | None, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    missing = sorted(set(mix or ()) - set(sizes))
    if missing:
        raise TrainingError(
            f"training.phases[{number}].mix names a language that the data does not have",
            got=", ".join(missing),
            expected=f"some of {', '.join(sizes)}",
        )
    weights = [mix.get(name, 0.0) if mix else size for name, size in sizes.items()]
    parts = np.cumsum([0.0, *weights]) / sum(weights)
    bounds: npt.NDArray[np.int64] = np.rint(parts * BLOCK_ROWS).astype(np.int64)
    widths = dict(zip(sizes, np.diff(bounds), strict=True))
    unseen = [name for name in sorted(mix or ()) if not widths[name]]
    if mix and unseen:
        raise TrainingError(
            f"training.phases[{number}].mix has a weight that is too small",
            got=f"{unseen[0]}: {mix[unseen[0]]:g} of {sum(weights):g}",
            expected=f"at least one part in {BLOCK_ROWS} of all weights, or the language left out",
        )
    return bounds


def language_tokens(
    phases: Sequence[RunPhase], seed: int, batch_tokens: int, sizes: Mapping[str, int]
) -> dict[str, int]:
    """How many tokens of each language a run takes whose phases have a mix.

    Args:
        sizes: tokens of each language in the data.

    Raises:
        TrainingError: see `MixedStream`.
    """
    languages = dict(sorted(sizes.items()))
    taken = np.zeros(len(languages), dtype=np.int64)
    for phase in _lay_out(phases, seed, batch_tokens, languages):
        taken += phase.counts(phase.num_rows) * phase.length
    return dict(zip(languages, taken.tolist(), strict=True))


class MixedStream(TokenStream):
    """The tokens of a run in which a phase has a mix; read by whole rows of one phase."""

    def __init__(self, shards: Sequence[Shard], seed: int, phases: Sequence[RunPhase], batch_tokens: int) -> None:
        """Make the stream of a run with these phases and `batch_tokens` tokens in a step.

        Raises:
            TrainingError: there is no token, or a phase wants a language that the shards do not have.
        """
        super().__init__(shards, seed)
        self.phases = tuple(phases)
        self.languages = sorted({name for shard in self.shards for name in shard.language_names})
        """Those of the shards; the order of all arrays of languages here."""
        self._streams = [TokenStream(self.shards, seed, language) for language in self.languages]
        sizes = {name: stream.num_tokens for name, stream in zip(self.languages, self._streams, strict=True)}
        self._phases = _lay_out(phases, seed, batch_tokens, sizes)

    def _taken(self, place: int) -> npt.NDArray[np.int64]:
        """Tokens that each language has before `place`, where a row begins; shape [languages]."""
        taken = np.zeros(len(self.languages), dtype=np.int64)
        for phase in self._phases:
            rows, rest = divmod(min(max(place - phase.start, 0), phase.stop - phase.start), phase.length)
            if rest:
                raise ValueError(f"no row begins at place {place}")
            taken += phase.counts(rows) * phase.length
        return taken

    def pieces(self, start: int, count: int) -> list[Piece]:
        """The ranges of the languages' streams that `count` tokens from place `start` on are made of."""
        begins, ends = self._taken(start), self._taken(start + count)
        return [
            Piece(stream, int(begin), int(end - begin))
            for stream, begin, end in zip(self._streams, begins, ends, strict=True)
            if end > begin
        ]

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` tokens from place `start` on: whole rows of one phase; shape [count]."""
        phase = next(one for one in self._phases if one.start <= start < one.stop)
        first = (start - phase.start) // phase.length
        languages = phase.languages(first, first + count // phase.length)
        rows = np.empty((len(languages), phase.length), dtype=np.int64)
        for number, place in enumerate(self._taken(start)):
            is_own = languages == number
            if own := int(is_own.sum()):
                tokens = self._streams[number].read(int(place), own * phase.length)
                rows[is_own] = tokens.reshape(own, phase.length)
        return rows.ravel()


def make_stream(shards: Sequence[Shard], seed: int, phases: Sequence[RunPhase], batch_tokens: int) -> TokenStream:
    """The stream of a run: mixed where a phase asks for it.

    Raises:
        TrainingError: see `MixedStream`.
    """
    if any(phase.mix for phase in phases):
        return MixedStream(shards, seed, phases, batch_tokens)
    return TokenStream(shards, seed)
