"""The order in which training sees tokens: a pure function of the seed and the step, whatever the number of ranks.

An epoch is every token once: the shards in a random order, in each one its documents in a random order, one after the
other. Epochs follow each other without a gap in one endless stream; step `s` takes the next rows of it. A row is
`sequence_length` tokens and does not begin at a document's start as a rule, so that no token is lost or seen twice.

Memory: two layouts of 16 bytes for each document of a shard (48 while one is made) and the tokens that are asked for.
Stage `tokenize` limits the documents of a shard, so this is bounded, whatever the size of the corpus.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from training.shards import Shard

_KEPT_LAYOUTS = 2


def _permutation(count: int, seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """A random order of `count` things, the same with every version of numpy; shape [count].

    Only the raw numbers of a bit generator are promised to stay, so the order is that of such numbers and not
    `Generator.permutation`: https://numpy.org/neps/nep-0019-rng-policy.html.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


@dataclass(frozen=True)
class Span:
    """Tokens that stand next to each other in the stream and lie in one shard."""

    epoch: int
    shard: int
    """Number of the shard in `TokenStream.shards`."""
    start: int
    """Place of the first one in the shard's order of this epoch."""
    count: int


class Layout:
    """The documents of one shard in their order of one epoch."""

    def __init__(self, shard: Shard, numbers: npt.NDArray[np.int64] | None, seed: Sequence[int]) -> None:
        """Args: `numbers` of the documents in `shard`, shape [documents]; None takes all."""
        if numbers is None:
            self._order = _permutation(shard.num_documents, seed)
        else:
            self._order = numbers[_permutation(len(numbers), seed)]
        self._ends = np.cumsum(shard.lengths[self._order])
        self._shard_ends = shard.ends
        self._tokens = shard.tokens

    def documents(self, start: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Documents that `count` tokens from place `start` on belong to.

        Returns:
            Their numbers in the shard, in this order, and how many of these tokens each has; both of shape [documents].
        """
        found = self._find(start, count)
        ends = np.minimum(self._ends[found], start + count)
        return self._order[found], np.diff(ends, prepend=start)

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` tokens from place `start` on; shape [count]."""
        numbers, lengths = self.documents(start, count)
        # All of a document's tokens move by the same distance, from their place in this order to that in the shard.
        shifts = self._shard_ends[numbers] - self._ends[self._find(start, count)]
        places = np.repeat(shifts, lengths)
        places += np.arange(start, start + count)
        return self._tokens[places].astype(np.int64)

    def _find(self, start: int, count: int) -> slice:
        first, last = np.searchsorted(self._ends, (start, start + count - 1), side="right")
        return slice(int(first), int(last) + 1)


@dataclass(frozen=True)
class Piece:
    """A range of a stream."""

    stream: TokenStream
    start: int
    count: int


class TokenStream:
    """The endless stream of a set of shards; several threads may read it."""

    def __init__(self, shards: Sequence[Shard], seed: int, language: str | None = None) -> None:
        """The documents of `shards`, or those in one language.

        Raises:
            TrainingError: there is no token.
        """
        self.seed, self._language = seed, language
        sizes = {shard: self._size(shard) for shard in shards}
        self.shards = [shard for shard, size in sizes.items() if size]
        """Those with text."""
        self.sizes = np.array([size for size in sizes.values() if size], dtype=np.int64)
        """Tokens of each shard that are in the stream; shape [shards]."""
        self.num_tokens = int(self.sizes.sum())
        """Tokens in one epoch."""
        if not self.num_tokens:
            raise TrainingError("the token shards are empty", hint="run stage tokenize again")
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._lock = threading.Lock()

    def numbers(self, shard: Shard) -> npt.NDArray[np.int64] | None:
        """Numbers of the documents of `shard` that are in the stream, shape [documents]; None where all are."""
        if self._language is None:
            return None
        names = shard.language_names
        return np.flatnonzero(shard.languages == names.index(self._language) if self._language in names else ())

    def _size(self, shard: Shard) -> int:
        numbers = self.numbers(shard)
        return shard.num_tokens if numbers is None else int(shard.lengths[numbers].sum())

    def pieces(self, start: int, count: int) -> list[Piece]:
        """The ranges of plain streams that `count` tokens from place `start` on are made of."""
        return [Piece(self, start, count)]

    def spans(self, start: int, count: int) -> Iterator[Span]:
        """Where `count` tokens from place `start` on are, in their order."""
        place, end = start, start + count
        while place < end:
            epoch, offset = divmod(place, self.num_tokens)
            order = _permutation(len(self.shards), [self.seed, epoch])
            ends = np.cumsum(self.sizes[order])
            for turn in range(int(np.searchsorted(ends, offset, side="right")), len(order)):
                number = int(order[turn])
                begin = int(ends[turn] - self.sizes[number])
                length = min(int(ends[turn]) - offset, end - place)
                yield Span(epoch, number, offset - begin, length)
                offset, place = offset + length, place + length
                if place == end:
                    return

    def layout(self, span: Span) -> Layout:
        """The order of the documents in which `span` has its places."""
        key = (span.epoch, span.shard)
        with self._lock:
            if key not in self._layouts:
                while len(self._layouts) >= _KEPT_LAYOUTS:
                    del self._layouts[next(iter(self._layouts))]
                shard = self.shards[span.shard]
                self._layouts[key] = Layout(shard, self.numbers(shard), [self.seed, *key])
            return self._layouts[key]

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` tokens from place `start` on; shape [count]."""
        tokens = np.empty(count, dtype=np.int64)
        filled = 0
        for span in self.spans(start, count):
            tokens[filled : filled + span.count] = self.layout(span).read(span.start, span.count)
            filled += span.count
        return tokens

    def rows(
        self, step: int, num_rows: int, sequence_length: int, *, rank: int, world_size: int
    ) -> npt.NDArray[np.int64]:
        """This rank's part of step `step`'s rows; shape [num_rows / world_size, sequence_length].

        Raises:
            TrainingError: the rows cannot be shared out evenly.
        """
        own, rest = divmod(num_rows, world_size)
        if rest:
            raise TrainingError(
                "the rows of a step cannot be shared out evenly",
                got=f"{num_rows} rows, {world_size} ranks",
                expected="a number of ranks that divides the rows",
                hint="change training.batch_tokens, or the number of training processes",
            )
        first = step * num_rows + rank * own
        return self.read(first * sequence_length, own * sequence_length).reshape(own, sequence_length)

    def read_ahead(
        self, steps: range, batch_tokens: int, length_of: Callable[[int], int], *, rank: int, world_size: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        """`rows` of every step of `steps`; a thread reads the next step's while the caller works on these.

        Args:
            length_of: the sequence length of a step; divides `batch_tokens`.
        """

        def read(step: int) -> npt.NDArray[np.int64]:
            length = length_of(step)
            return self.rows(step, batch_tokens // length, length, rank=rank, world_size=world_size)

        ahead: Future[npt.NDArray[np.int64]] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="data") as reader:
            for step, following in zip_longest(steps, steps[1:]):
                rows = ahead.result() if ahead else read(step)
                ahead = reader.submit(read, following) if following is not None else None
                yield rows
