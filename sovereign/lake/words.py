"""Words of a text as arrays: where they are, what is in them, hashes of their n-grams. No loop over words.

A word is what stands between spaces; in scripts that write none (Han, kana, Thai, Lao, Khmer, Burmese) every character
is a unit, and a fixed number of units counts as a word. In Tibetan script a word is a syllable: a tsheg stands between
two of them, inside a word too.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from sovereign.lake.shingles import mix

_SPACELESS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)
_TSHEGS = "\u0f0b\u0f0c"
_CHARS_PER_WORD = {"zh": 2, "ja": 2, "th": 4, "lo": 4, "km": 4, "my": 4}
"""About; segmenters give 1.5 to 1.7 in Chinese, 4 to 5 in Thai."""
_SPACE, _LETTER, _ALONE = 1, 2, 4
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2^64 divided by the golden ratio
_INVERSE = pow(_MULTIPLIER, -1, 2**64)

Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """What every code point is; a vowel sign is a letter too, as it stands alone in scripts without spaces."""
    kinds = np.zeros(0x110000, np.uint8)
    for code in range(0x110000):
        char = chr(code)
        is_letter = char.isalpha() or unicodedata.category(char)[0] == "M"
        kinds[code] = (char.isspace() or char in _TSHEGS) * _SPACE + is_letter * _LETTER
    for first, last in _SPACELESS:
        kinds[first : last + 1] |= _ALONE
    return kinds


@cache
def _powers(base: int, length: int) -> Hashes:
    """1, base, base^2, … modulo 2^64."""
    powers = np.full(length, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


@dataclass(frozen=True)
class Words:
    """The units of one text."""

    text: str
    language: str
    """Primary language subtag."""

    @cached_property
    def _codes(self) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def _bounds(self) -> tuple[Counts, Counts]:
        """Start and end of every unit."""
        kinds = _kinds()[self._codes]
        is_space = (kinds & _SPACE) > 0
        is_alone = (kinds & _ALONE) > 0
        begins = ~is_space
        begins[1:] &= is_space[:-1] | is_alone[1:] | is_alone[:-1]
        ends = ~is_space
        ends[:-1] &= is_space[1:] | is_alone[:-1] | is_alone[1:]
        return np.flatnonzero(begins), np.flatnonzero(ends) + 1

    @cached_property
    def lengths(self) -> Counts:
        """Characters of every unit."""
        starts, ends = self._bounds
        return ends - starts

    @cached_property
    def units_per_word(self) -> int:
        """1 where words stand between spaces."""
        if self.language in _CHARS_PER_WORD:
            return _CHARS_PER_WORD[self.language]
        num_alone = int(((_kinds()[self._codes] & _ALONE) > 0).sum())
        return 2 if 2 * num_alone > int(self.lengths.sum()) else 1

    @property
    def count(self) -> int:
        """Number of words."""
        return len(self.lengths) // self.units_per_word

    @cached_property
    def with_letter(self) -> int:
        """Units with at least one letter."""
        letters = np.concatenate([[0], np.cumsum((_kinds()[self._codes] & _LETTER) > 0)])
        starts, ends = self._bounds
        return int((letters[ends] > letters[starts]).sum())

    @cached_property
    def _hashes(self) -> Hashes:
        """A hash of every unit: its characters as digits of a number, which follows from sums up to its two ends."""
        size = 1 << max(10, len(self._codes).bit_length())
        terms = (self._codes.astype(np.uint64) + np.uint64(1)) * _powers(_MULTIPLIER, size)[: len(self._codes)]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        starts, ends = self._bounds
        return mix((sums[ends] - sums[starts]) * _powers(_INVERSE, size)[starts])

    def ngrams(self, length: int) -> tuple[Hashes, Counts]:
        """Hash and number of characters of every n-gram of `length` units; none where there are fewer units."""
        count = len(self._hashes) - length + 1
        if count < 1:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        hashes = self._hashes[:count].copy()
        for shift in range(1, length):
            hashes *= np.uint64(_MULTIPLIER)
            hashes += self._hashes[shift : shift + count]
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return hashes, ends[length:] - ends[:count]
