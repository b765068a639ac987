"""Near duplicates: texts that have most of their shingles in common, gathered into clusters (MinHash-LSH).

Signatures are cut into 21 bands of 6 values. Texts with an equal band are candidates: those that have a share s of
their shingles in common are with probability 1 - (1 - s^6)^21, 0.98 at 0.75. A pair of candidates is linked when its
signatures agree in at least `similarity` of their values, so that what merely falls into one bucket is never merged,
and when they do not differ in names or numbers (sovereign/lake/facts_sketch.py): forms filled in for two people are
two texts. A bucket's texts, in the order of their facts and SHA-256, are each compared with the one before and with
the first. What is linked, directly or through others, is a cluster; the text with the smallest SHA-256 stands for it.
So neither the order nor the number of the documents' copies decides anything.

Bands are compared in groups that need nothing of each other. Memory is bounded: signatures, hashes and clusters (about
0.9 kB a text) lie in files, a band is sorted in parts, and a bucket that many texts share is walked in pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sovereign.lake.facts_sketch import SKETCH_VALUES, are_apart, num_facts, sketch
from sovereign.lake.shingles import NUM_BINS, mix, signature
from sovereign.profile_cleaning import NearDuplicateRules

NUM_BANDS, ROWS = 21, 6
NUM_GROUPS = 7
"""Groups of bands; a text's signature is read once for each."""
ROW_VALUES = NUM_BINS + SKETCH_VALUES
"""Numbers of 32 bits that are kept of a text: its signature and its sketch."""
_BLOCK = 1_024
"""Texts whose signatures are written at once."""
_SORTED = 2**20
"""Entries of a band that are sorted at once."""
_COMPARED = 2**14
"""Pairs whose signatures are compared at once."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Numbers = npt.NDArray[np.int64]
Key = Callable[[Numbers], npt.NDArray[np.uint64]]
"""Of each text the numbers that it is ordered by."""


class NearDuplicates:
    """Texts and their clusters, in files of a folder. A text may come more than once."""

    def __init__(self, folder: Path, rules: NearDuplicateRules) -> None:
        """Args: `folder` is empty; what is written there is for the caller to remove."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rules = folder, rules
        self._new: list[npt.NDArray[np.uint32]] = []
        self._new_digests: list[bytes] = []
        self.count = 0
        self.signatures_path, self.digests_path = folder / "signatures", folder / "digests"
        for path in (self.signatures_path, self.digests_path):
            path.touch()

    def add(self, digest: bytes, text: str) -> bool:
        """Add a text and its SHA-256; a text shorter than the rules' `min_chars` is left out, which gives False."""
        if len(text) < self._rules.min_chars:
            return False
        self._new.append(np.concatenate([signature(text), sketch(text)]))
        self._new_digests.append(digest)
        self.count += 1
        if len(self._new) == _BLOCK:
            self.flush()
        return True

    def extend(self, signatures: bytes, digests: bytes) -> None:
        """Add texts by what their files have; signatures are needed for `link` only."""
        self._append(signatures, digests)
        self.count += len(digests) // 32

    def flush(self) -> None:
        """Write what was added."""
        if self._new:
            self._append(np.stack(self._new).tobytes(), b"".join(self._new_digests))
            self._new, self._new_digests = [], []

    def _append(self, signatures: bytes, digests: bytes) -> None:
        for path, data in ((self.signatures_path, signatures), (self.digests_path, digests)):
            with path.open("ab") as file:
                file.write(data)

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        """SHA-256 of each text, one a row."""
        return self._map(self.digests_path, np.uint8, 32)

    def link(self, group: int, path: Path) -> None:
        """Write to `path`, by the bands of one group, pairs of texts whose clusters are one."""
        path.write_bytes(b"")
        self.flush()
        if not self.count:
            return
        signatures, digests = self._rows(), self.digests
        parents = self._numbers("parents")
        for band in range(group, NUM_BANDS, NUM_GROUPS):
            hashes = self._hash(signatures, band)
            for pieces in self._parts(hashes, digests):
                for pairs in _candidates(pieces, hashes, digests, signatures):
                    self._compare(parents, pairs, signatures)
        with path.open("wb") as file:
            for numbers in self._blocks():
                roots = _roots(parents, numbers)
                file.write(np.stack([numbers, roots], axis=1)[numbers != roots].tobytes())

    def representatives(self, links: Iterable[Path]) -> Numbers:
        """For each text the number of the one that stands for its cluster, by what `link` wrote for all groups."""
        if not self.count:
            return np.empty(0, np.int64)
        parents = self._numbers("parents")
        for path in links:
            size = path.stat().st_size // 16
            pairs = np.memmap(path, np.int64, "r", shape=(size, 2)) if size else np.empty((0, 2), np.int64)
            for start in range(0, size, _SORTED):
                _join(parents, np.array(pairs[start : start + _SORTED]))
        if self._rules.keep_different_facts:
            parents = self._part(parents)
        standing = self._numbers("standing")
        for numbers in self._blocks():
            _find_smallest(standing, parents, numbers, lambda some: digest_words(self.digests[some]))
        for numbers in self._blocks():
            standing[numbers] = standing[_roots(parents, numbers)]
        return standing

    def _part(self, parents: Numbers) -> Numbers:
        """Clusters without the texts that have other facts than the one with most facts, which each stand for itself.

        An empty form links all that were filled in.
        """
        rows = self._rows()

        def by_facts(numbers: Numbers) -> npt.NDArray[np.uint64]:
            counts = [num_facts(rows[some, NUM_BINS:]) for some in _pieces(numbers)]
            few = ~np.concatenate([np.empty(0, np.uint64), *counts])
            return np.concatenate([few[:, None], digest_words(self.digests[numbers])], axis=1)

        richest, parted = self._numbers("richest"), self._numbers("parted")
        for numbers in self._blocks():
            _find_smallest(richest, parents, numbers, by_facts)
        for numbers in self._blocks():
            for some in _pieces(numbers):
                others = richest[_roots(parents, some)]
                some, others = some[some != others], others[some != others]
                is_apart = are_apart(rows[some, NUM_BINS:], rows[others, NUM_BINS:])
                parted[some[~is_apart]] = others[~is_apart]
        return parted

    def _rows(self) -> npt.NDArray[np.uint32]:
        return self._map(self.signatures_path, np.uint32, ROW_VALUES)

    def _map(self, path: Path, kind: type[Any], width: int) -> npt.NDArray[Any]:
        return np.memmap(path, kind, "r", shape=(self.count, width)) if self.count else np.empty((0, width), kind)

    def _numbers(self, name: str) -> Numbers:
        """A file with the number of each text."""
        made: Numbers = self._make(name, np.int64)
        for numbers in self._blocks():
            made[numbers] = numbers
        return made

    def _make(self, name: str, kind: type[Any]) -> npt.NDArray[Any]:
        """A file with a number for each text. It takes its room now: without room later the process would be killed."""
        with (self._folder / name).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.count * np.dtype(kind).itemsize)
        return np.memmap(self._folder / name, kind, "r+", shape=(self.count,))

    def _blocks(self) -> Iterator[Numbers]:
        for start in range(0, self.count, _SORTED):
            yield np.arange(start, min(start + _SORTED, self.count))

    def _hash(self, signatures: npt.NDArray[np.uint32], band: int) -> npt.NDArray[np.uint64]:
        """A hash of each text's values in the band."""
        made: npt.NDArray[np.uint64] = self._make("band", np.uint64)
        for start in range(0, self.count, _SORTED):
            block = signatures[start : start + _SORTED]
            hashes = np.full(len(block), band, np.uint64)
            for column in range(band * ROWS, (band + 1) * ROWS):
                hashes = mix(hashes * _MULTIPLIER + block[:, column])
            made[start : start + _SORTED] = hashes
        return made

    def _parts(self, hashes: npt.NDArray[np.uint64], digests: npt.NDArray[np.uint8]) -> Iterator[Iterator[Numbers]]:
        """Texts split by the highest bits of their hashes in one band, so that a part can be sorted.

        A part comes in one piece, or where many texts have one hash in several, each of digests above those before.
        """
        bits = max(0, (self.count - 1).bit_length() - (_SORTED.bit_length() - 1))

        def blocks() -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
            for start in range(0, self.count, _SORTED):
                yield start, hashes[start : start + _SORTED] >> np.uint64(1) >> np.uint64(63 - bits)

        def piece(part: int, number: int, num_pieces: int) -> Numbers:
            found = []
            for start, parts in blocks():
                is_in = parts == part
                if num_pieces > 1:
                    prefixes = digests[start : start + _SORTED, :4].copy().view(">u4")[:, 0]
                    is_in &= prefixes * np.uint64(num_pieces) >> np.uint64(32) == number
                found.append(start + np.flatnonzero(is_in))
            return np.concatenate(found)

        sizes = np.zeros(2**bits, np.int64)
        for _, parts in blocks():
            sizes += np.bincount(parts.astype(np.int64), minlength=2**bits)
        for part, size in enumerate(sizes.tolist()):
            num_pieces = 1 if 4 * size <= 5 * _SORTED else 2 * -(-size // _SORTED)
            yield (piece(part, number, num_pieces) for number in range(num_pieces))

    def _compare(self, parents: Numbers, pairs: Numbers, signatures: npt.NDArray[np.uint32]) -> None:
        """Join the clusters of those pairs whose signatures agree."""
        pairs = pairs[_roots(parents, pairs[:, 0]) != _roots(parents, pairs[:, 1])]
        for start in range(0, len(pairs), _COMPARED):
            some = pairs[start : start + _COMPARED]
            ones, others = signatures[some[:, 0]], signatures[some[:, 1]]
            is_near = (ones[:, :NUM_BINS] == others[:, :NUM_BINS]).mean(axis=1) >= self._rules.similarity
            some, ones, others = some[is_near], ones[is_near, NUM_BINS:], others[is_near, NUM_BINS:]
            _join(parents, some[~are_apart(ones, others)] if self._rules.keep_different_facts else some)


def digest_words(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Digests, one a row, as four numbers each that have the same order."""
    return np.ascontiguousarray(digests).view(">u8").astype(np.uint64)


def _candidates(
    pieces: Iterable[Numbers],
    all_hashes: npt.NDArray[np.uint64],
    digests: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.uint32],
) -> Iterator[Numbers]:
    """Pairs of texts with equal hashes: each with the one before it, and with the first, by facts, then digests.

    So copies of one of many filled-in forms are beside each other.

    The first and the last text of each hash go on into the next piece.
    """
    ends = np.empty(0, np.int64)
    for piece in pieces:
        numbers = np.concatenate([ends, piece])
        hashes = all_hashes[numbers]
        by_hash = np.argsort(hashes, kind="stable")
        numbers, hashes = numbers[by_hash], hashes[by_hash]
        is_shared = np.zeros(len(hashes), bool)
        is_shared[1:] = hashes[1:] == hashes[:-1]
        is_shared[:-1] |= is_shared[1:]
        ends = numbers[~is_shared]
        numbers, hashes = numbers[is_shared], hashes[is_shared]
        prefixes = digests[numbers, :8].copy().view(">u8")[:, 0]
        facts = rows[numbers, NUM_BINS : NUM_BINS + 2].copy().view(np.uint64)[:, 0]
        order = np.lexsort((prefixes, facts, hashes))
        numbers, hashes = numbers[order], hashes[order]
        is_next = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
        yield np.stack([numbers[is_next - 1], numbers[is_next]], axis=1)
        _, first, sizes = np.unique(hashes, return_index=True, return_counts=True)
        firsts = numbers[np.repeat(first, sizes)]
        yield np.stack([firsts[is_next], numbers[is_next]], axis=1)
        ends = np.concatenate([ends, numbers[np.stack([first, first + sizes - 1], axis=1).ravel()]])


def _roots(parents: Numbers, numbers: Numbers) -> Numbers:
    found: Numbers = parents[numbers]
    while True:
        above: Numbers = parents[found]
        if np.array_equal(above, found):
            return found
        found = above


def _join(parents: Numbers, pairs: Numbers) -> None:
    """Give both ends of every pair one root; a parent is never above its child, so there are no circles."""
    while len(pairs):
        roots = np.stack([_roots(parents, pairs[:, 0]), _roots(parents, pairs[:, 1])], axis=1)
        parents[pairs] = roots
        is_apart = roots[:, 0] != roots[:, 1]
        pairs, roots = pairs[is_apart], roots[is_apart]
        np.minimum.at(parents, roots.max(axis=1), roots.min(axis=1))


def _pieces(numbers: Numbers) -> Iterator[Numbers]:
    return (numbers[start : start + _COMPARED] for start in range(0, len(numbers), _COMPARED))


def _find_smallest(standing: Numbers, parents: Numbers, numbers: Numbers, key: Key) -> None:
    """Set `standing` of each root of `numbers` to the one with the smallest key, where that is below what it had."""
    roots = _roots(parents, numbers)
    is_below = roots != numbers
    numbers, roots = numbers[is_below], roots[is_below]
    words = key(numbers)
    order = np.lexsort((*words.T[::-1], roots))
    numbers, roots, words = numbers[order], roots[order], words[order]
    roots, first = np.unique(roots, return_index=True)
    numbers, words = numbers[first], words[first]
    before = key(standing[roots])
    where = np.argmax(words != before, axis=1)[:, None]
    is_smaller = (np.take_along_axis(words, where, 1) < np.take_along_axis(before, where, 1))[:, 0]
    standing[roots[is_smaller]] = numbers[is_smaller]
