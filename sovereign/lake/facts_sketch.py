"""Sketches of a text's names and numbers: whether two near duplicates are one text, or one form filled in twice.

A sketch counts, modulo 256, the words of a text by a hash: numbers in two of 64 bins each, names in two of 64 others,
other words in one of 64, words of scripts without capitals in one of 64 others. The difference of two sketches shows
how many words one text has that the other lacks, of each sort, without the texts. Names are words with a capital that
do not begin a sentence. Scripts without capitals have no names that could be told; their numbers count three times
instead.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from sovereign.lake.shingles import mix

BINS = 64
SKETCH_VALUES = 2 + BINS
"""Numbers of 32 bits in a sketch: a hash of all names and numbers, and the counts by sort."""
_BASIC = 0x10000
_WORD, _UPPER, _DIGIT, _NO_CASE, _ENDS = 1, 2, 4, 8, 16
_MULTIPLIER = 0x9E3779B97F4A7C15
_CACHED = 2**16
_NO_CASE_WEIGHT = 3
_NAMES_WEIGHT = 3
MAX_TITLE_CHARS = 3
"""A period behind so short a word with a capital, as in "Dr.", does not end a sentence."""


@cache
def _classes() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """What each character of Unicode's first plane is, and its lower case."""
    classes, lower = np.zeros(_BASIC, np.uint8), np.arange(_BASIC, dtype=np.uint32)
    for code in range(_BASIC):
        category = unicodedata.category(chr(code))
        if category[0] in "LMN":
            classes[code] = _WORD
            classes[code] |= {"Lu": _UPPER, "Lt": _UPPER, "Nd": _DIGIT, "Lo": _NO_CASE}.get(category, 0)
        small = chr(code).lower()
        lower[code] = ord(small) if len(small) == 1 else code
    classes[[ord(char) for char in "\n.!?。！？؟।"]] = _ENDS
    classes[_BASIC - 1] = _WORD | _NO_CASE  # stands for all other planes
    return classes, lower


def _powers(length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Powers of a multiplier and of its inverse modulo 2^64, at least `length` of each."""
    return _cached_powers() if length <= _CACHED else _make_powers(length)


def _make_powers(length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    one, other = (np.full(length, value, np.uint64) for value in (_MULTIPLIER, pow(_MULTIPLIER, -1, 2**64)))
    return np.cumprod(one), np.cumprod(other)


@cache
def _cached_powers() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    return _make_powers(_CACHED)


def sketch(text: str) -> npt.NDArray[np.uint32]:
    """The sketch of a text: `SKETCH_VALUES` values."""
    table, lower = _classes()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    if not text.isascii():
        codes = np.minimum(codes, _BASIC - 1)
    classes = np.zeros(len(codes) + 2, np.uint8)  # a space before and behind
    classes[1:-1] = table[codes]
    is_in = (classes & _WORD).view(bool)
    edges = is_in[1:] ^ is_in[:-1]
    if not text.isascii():
        kinds = classes & (_DIGIT | _NO_CASE)
        is_split = (kinds[1:] | kinds[:-1]) == (_DIGIT | _NO_CASE)
        return _sketch(lower[codes], classes, np.flatnonzero(edges), np.flatnonzero(is_split))
    return _sketch(lower[codes], classes, np.flatnonzero(edges), np.empty(0, np.int64))


def _sketch(
    codes: npt.NDArray[np.uint32],
    classes: npt.NDArray[np.uint8],
    edges: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint32]:
    """Args: `edges` are where words begin and end in turn, `splits` where one ends as the next begins."""
    starts, stops = edges[::2], edges[1::2]
    if len(splits):
        starts, stops = np.sort(np.append(starts, splits)), np.sort(np.append(stops, splits))
    if not len(starts):
        return np.zeros(SKETCH_VALUES, np.uint32)
    lengths = stops - starts
    powers, inverses = _powers(len(codes))
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    hashes = mix((sums[stops] - sums[starts]) * inverses[starts])
    first, last = classes[1:][starts], classes[stops]
    ends = np.flatnonzero(classes & _ENDS) - 1
    is_upper = first & _UPPER > 0
    begins = _begins_sentence(first, starts, lengths, ends)
    sorts = np.where(first & _NO_CASE > 0, 3, 2)  # of words
    sorts[is_upper] = 1
    sorts[first & last & _DIGIT > 0] = 0
    is_counted = ~(is_upper & begins)  # a name or any word
    return _count(hashes[is_counted], sorts[is_counted])


def _begins_sentence(
    first: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whether each word begins a sentence or a line; `ends` are where one may end."""
    num_ends = np.bincount(np.searchsorted(starts, ends), minlength=len(starts) + 1)[:-1]
    is_title = (lengths <= MAX_TITLE_CHARS) & (first & _UPPER > 0)
    found = num_ends > 0
    found[0] = True
    found[1:] &= ~(is_title[:-1] & (num_ends[1:] == 1))
    return found


def _count(hashes: npt.NDArray[np.uint64], sorts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    is_fact = sorts < 2
    facts, others = hashes[is_fact], sorts * BINS
    low = (hashes % BINS).astype(np.int64) + others
    high = (facts >> np.uint64(20)) % BINS
    bins = np.concatenate([low, high.astype(np.int64) + others[is_fact]])
    counts = np.bincount(bins, minlength=4 * BINS).astype(np.uint8)
    return np.concatenate([facts.sum(dtype=np.uint64)[None].view(np.uint32), counts.view(np.uint32)])


def num_facts(sketches: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """How many names and numbers a text has, of sketches one a row."""
    counts: npt.NDArray[np.uint64] = (
        np.ascontiguousarray(sketches[:, 2:]).view(np.uint8)[:, : 2 * BINS].sum(axis=1, dtype=np.uint64)
    )
    return counts


def are_apart(ones: npt.NDArray[np.uint32], others: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Whether the texts of each pair of sketches have different names or numbers.

    Some are replaced by others, at least as many as other words are; where no number is, three times as many, since
    a copy with errors has some in words with a capital. Names and numbers that only one text has do not part them.
    """
    is_equal = (ones[:, :2] == others[:, :2]).all(axis=1)
    first, second = (np.ascontiguousarray(some[:, 2:]).view(np.uint8) for some in (ones, others))
    difference = (first - second).view(np.int8)
    numbers, names = (_replaced(difference[:, start : start + BINS]) for start in (0, BINS))
    numbers[~is_equal & ~difference[:, : 2 * BINS].any(axis=1)] = 2  # both fell into the same bins
    words = difference[:, 2 * BINS :] != 0
    num_words = words[:, :BINS].sum(axis=1) + words[:, BINS:].sum(axis=1) / _NO_CASE_WEIGHT
    facts = np.where(numbers > 0, numbers + names, names / _NAMES_WEIGHT)
    found: npt.NDArray[np.bool_] = (facts > 0) & (facts >= num_words)
    return found


def _replaced(difference: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Twice the number of words in one text that the other has another for."""
    found: npt.NDArray[np.int64] = np.minimum((difference > 0).sum(axis=1), (difference < 0).sum(axis=1))
    return found
