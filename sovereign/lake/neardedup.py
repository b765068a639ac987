"""Near duplicates: texts that have most of their shingles in common, gathered into clusters (MinHash-LSH).

Signatures are cut into 21 bands of 6 values. Texts with an equal band are candidates: those that have a share s of
their shingles in common are with probability 1 - (1 - s^6)^21, 0.98 at 0.75. A pair of candidates is linked when its
signatures agree in at least `similarity` of their values, so that what merely falls into one bucket is never merged.
A bucket's texts, in the order of their SHA-256, are each compared with the one before and with the first. What is
linked, directly or through others, is a cluster; the text with the smallest SHA-256 stands for it. So neither the
order nor the number of the documents' copies decides anything.

Memory is bounded but for 24 bytes a near duplicate: signatures and bands (about 0.7 kB a text) lie in files, and a band
is sorted in parts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sovereign.lake.shingles import NUM_BINS, mix, signature
from sovereign.profile_cleaning import NearDuplicateRules

NUM_BANDS, ROWS = 21, 6
_BLOCK = 1_024
"""Texts whose signatures are written at once."""
_SORTED = 2**22
"""Entries of a band that are sorted at once."""
_COMPARED = 2**14
"""Pairs whose signatures are compared at once."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Numbers = npt.NDArray[np.int64]


class NearDuplicates:
    """Texts, each added once, and their clusters. A context manager; its folder is removed at the end."""

    def __init__(self, folder: Path, rules: NearDuplicateRules) -> None:
        self._folder, self._rules = folder, rules
        self._stack = ExitStack()
        self._signatures: list[npt.NDArray[np.uint32]] = []
        self._digests: list[bytes] = []
        self._count = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        names = ["signatures", "digests", *map(_band_name, range(NUM_BANDS))]
        self._files = {name: self._stack.enter_context((self._folder / name).open("wb")) for name in names}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        shutil.rmtree(self._folder)

    def add(self, digest: bytes, text: str) -> None:
        """Add a text and its SHA-256; a text shorter than the rules' `min_chars` is left out."""
        if len(text) < self._rules.min_chars:
            return
        self._signatures.append(signature(text))
        self._digests.append(digest)
        if len(self._digests) == _BLOCK:
            self._write()

    def clusters(self) -> Iterator[tuple[bytes, bytes]]:
        """Each member of a cluster of at least two texts, with the one that stands for it, itself included."""
        self._write()
        self._stack.close()
        if not self._count:
            return
        digests = self._map("digests", np.uint8, 32)
        signatures = self._map("signatures", np.uint32, NUM_BINS)
        parents: Numbers = np.memmap(self._folder / "parents", np.int64, "w+", shape=(self._count,))
        for start in range(0, self._count, _SORTED):
            stop = min(start + _SORTED, self._count)
            parents[start:stop] = np.arange(start, stop)
        for band in range(NUM_BANDS):
            for bucketed in self._parts(self._map(_band_name(band), np.uint64)):
                for pairs in _candidates(*bucketed, digests):
                    self._link(parents, pairs, signatures)
        members, roots = _members(parents)
        order = np.argsort(roots, kind="stable")
        for _, group in groupby(order.tolist(), key=roots.__getitem__):
            cluster = sorted(digests[members[position]].tobytes() for position in group)
            yield from ((digest, cluster[0]) for digest in cluster)

    def _write(self) -> None:
        """Append the block's signatures, digests and bands to their files."""
        if not self._digests:
            return
        block = np.stack(self._signatures)
        self._files["signatures"].write(block.tobytes())
        self._files["digests"].write(b"".join(self._digests))
        for band in range(NUM_BANDS):
            hashes = np.full(len(block), band, np.uint64)
            for column in range(band * ROWS, (band + 1) * ROWS):
                hashes = mix(hashes * _MULTIPLIER + block[:, column])
            self._files[_band_name(band)].write(hashes.tobytes())
        self._count += len(block)
        self._signatures, self._digests = [], []

    def _map(self, name: str, kind: type[Any], width: int | None = None) -> npt.NDArray[Any]:
        shape = (self._count,) if width is None else (self._count, width)
        return np.memmap(self._folder / name, kind, "r", shape=shape)

    def _parts(self, hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[Numbers, npt.NDArray[np.uint64]]]:
        """Texts and their hashes in one band, split by the hashes' highest bits so that a part can be sorted."""
        bits = max(0, (self._count - 1).bit_length() - (_SORTED.bit_length() - 1))
        for part in range(2**bits):
            found = []
            for start in range(0, self._count, _SORTED):
                block = hashes[start : start + _SORTED]
                is_in = block >> np.uint64(64 - bits) == part if bits else np.ones(len(block), bool)
                found.append(start + np.flatnonzero(is_in))
            numbers = np.concatenate(found)
            yield numbers, hashes[numbers]

    def _link(self, parents: Numbers, pairs: Numbers, signatures: npt.NDArray[np.uint32]) -> None:
        """Join the clusters of those pairs whose signatures agree."""
        pairs = pairs[_roots(parents, pairs[:, 0]) != _roots(parents, pairs[:, 1])]
        for start in range(0, len(pairs), _COMPARED):
            some = pairs[start : start + _COMPARED]
            agreement = (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
            _join(parents, some[agreement >= self._rules.similarity])


def _band_name(band: int) -> str:
    return f"band-{band:02}"


def _candidates(numbers: Numbers, hashes: npt.NDArray[np.uint64], digests: npt.NDArray[np.uint8]) -> Iterator[Numbers]:
    """Pairs of texts with equal hashes: each with the one before it, and with the first, in the order of digests."""
    by_hash = np.argsort(hashes, kind="stable")
    numbers, hashes = numbers[by_hash], hashes[by_hash]
    is_shared = np.zeros(len(hashes), bool)
    is_shared[1:] = hashes[1:] == hashes[:-1]
    is_shared[:-1] |= is_shared[1:]
    numbers, hashes = numbers[is_shared], hashes[is_shared]
    prefixes = digests[numbers, :8].copy().view(">u8")[:, 0]
    order = np.lexsort((prefixes, hashes))
    numbers, hashes = numbers[order], hashes[order]
    is_next = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    yield np.stack([numbers[is_next - 1], numbers[is_next]], axis=1)
    _, first, sizes = np.unique(hashes, return_index=True, return_counts=True)
    firsts = numbers[np.repeat(first, sizes)]
    yield np.stack([firsts[is_next], numbers[is_next]], axis=1)


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


def _members(parents: Numbers) -> tuple[Numbers, Numbers]:
    """Texts in clusters of at least two, and the root of each."""
    members = [
        start + np.flatnonzero(parents[start : start + _SORTED] != np.arange(start, min(start + _SORTED, len(parents))))
        for start in range(0, len(parents), _SORTED)
    ]
    below = np.concatenate(members)
    roots = _roots(parents, below)
    tops = np.unique(roots)
    return np.concatenate([below, tops]), np.concatenate([roots, tops])
