"""MinHash signatures of texts: two texts' signatures agree in about the share of shingles that they have in common.

A shingle is a run of bytes of the UTF-8 text, case folded, spaces and line ends as one space. 24 bytes are about five
words in Latin script and eight characters in Chinese, so no word splitting is needed. Signatures are made by
one-permutation hashing (Li, Owen, Zhang 2012, https://arxiv.org/abs/1208.1259): every shingle is hashed once, the hash
chooses one of the signature's bins, a bin keeps its smallest value. Empty bins borrow from others (Shrivastava 2017,
"Optimal densification", https://arxiv.org/abs/1703.04664). All of it is integer arithmetic: the same everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHINGLE_BYTES = 24
NUM_BINS = 128
"""Values in a signature; the estimate of a share s has a standard deviation of sqrt(s (1 - s) / 128), 0.04 at most."""

_BIN_BITS = 7
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2^64 divided by the golden ratio
_POWERS = {width: np.uint64(pow(_MULTIPLIER, width, 2**64)) for width in (1, 2, 4, 8, 16)}
_EMPTY = np.uint64(2**64 - 1)
_BINS = np.arange(NUM_BINS, dtype=np.uint64)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of each value; the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Works in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _donors() -> npt.NDArray[np.intp]:
    """For every bin the bins that it borrows from, in their order; all of them, so that the search ends."""
    keys = mix((_BINS[:, None] << np.uint64(32)) + _BINS[None, :] + np.uint64(1))
    return np.argsort(keys, axis=1, kind="stable")


_DONORS = _donors()


def shingle_hashes(text: str) -> npt.NDArray[np.uint64]:
    """A hash of every shingle, in order; of a shorter text one hash of the whole."""
    data = np.frombuffer(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"), np.uint8)
    hashes = data.astype(np.uint64) + np.uint64(1)
    width = 1
    by_width = {1: hashes}
    while width * 2 <= SHINGLE_BYTES and width * 2 <= len(data):
        hashes = hashes[:-width] * _POWERS[width] + hashes[width:]
        width *= 2
        by_width[width] = hashes
    wanted = min(SHINGLE_BYTES, len(data))
    done, total = width, hashes
    for part in sorted(by_width, reverse=True):  # 24 = 16 + 8
        if done + part <= wanted:
            tail = by_width[part][done:]
            total = total[: len(tail)] * _POWERS[part] + tail
            done += part
    return mix(total.copy())


def signature(text: str) -> npt.NDArray[np.uint32]:
    """The signature: `NUM_BINS` values. A text must not be empty."""
    hashes = np.sort(shingle_hashes(text))
    starts = np.searchsorted(hashes, _BINS << np.uint64(64 - _BIN_BITS))
    smallest = np.append(hashes, _EMPTY)[starts]
    filled = smallest >> np.uint64(64 - _BIN_BITS) == _BINS
    filled[-1] &= starts[-1] < len(hashes)
    values = (smallest >> np.uint64(64 - _BIN_BITS - 32)).astype(np.uint32)  # the 32 bits after the bin's
    if filled.all():
        return values
    donor = np.take_along_axis(_DONORS, np.argmax(filled[_DONORS], axis=1)[:, None], axis=1)[:, 0]
    return np.where(filled, values, values[donor])
