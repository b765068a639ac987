"""Overlap of texts by n-grams of words: which evaluation items stand in the training text, in whole or in part.

A text is split into units: words, folded so that case, width, diacritics, invisible characters, digits of other scripts
and interchangeable letters (Arabic ة and ه, Turkish ı, œ …) do not hide a copy;
in scripts that write no spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) every character is a unit. An
n-gram is 13 units, as for GPT-3 (Brown et al. 2020, appendix C); an item with fewer units is looked for as a whole,
down to 8, below which a match says nothing. The index holds the items, which are few; the text that is searched goes by
one document at a time.

N-grams are compared by 64-bit hashes: among 10^12 of them against 10^6, less than one false match in 10 is expected.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

LENGTH = 13
"""Units of an n-gram."""
MIN_LENGTH = 8
"""Units of the shortest item that is looked for."""

SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{SPACELESS}]|(?:(?![{SPACELESS}])[^\W_])+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 divided by the golden ratio


_SAME = {
    # Arabic script: letters of neighbouring languages and keyboards, and endings that writers interchange.
    **dict.fromkeys(map(ord, "ةۃہھە"), "ه"),
    **dict.fromkeys(map(ord, "يىۍې"), "ی"),
    ord("ک"): "ك",
    ord("ٱ"): "ا",
    # Letters that NFKD does not take apart though writers without the right keyboard do.
    **{ord(one): other for one, other in zip("æœøłđðħŧıȷ", ("ae", "oe", *"olddhtij"), strict=True)},
    **{ord(one): other for one, other in zip("װױײ", ("וו", "וי", "יי"), strict=True)},
    ord("ґ"): "г",
    # Apostrophes that count as letters; the others separate words.
    **dict.fromkeys(map(ord, "ʹʻʼʽˈꞌ"), "'"),
    # Nothing is read there: the Arabic tatweel and Hangul fillers.
    **dict.fromkeys((0x0640, 0x115F, 0x1160)),
}
"""What is read as the same, after NFKD and case folding."""


class _Folding(dict[int, int | str | None]):
    """A table for str.translate that joins spellings of a word.

    Without combining marks (accents, dots, Arabic vowels, nuktas, Indic vowel signs) and format characters (soft
    hyphens, zero-width spaces and joiners, directions); digits of every script are those of ASCII.
    """

    def __missing__(self, code: int) -> int | str | None:
        letter = chr(code)
        category = unicodedata.category(letter)
        found: int | str | None = _SAME.get(code, code)
        if category[0] == "M" or category == "Cf":
            found = None
        elif category == "Nd":
            found = str(unicodedata.decimal(letter))
        self[code] = found
        return found


_TABLE = _Folding()


def units(text: str) -> list[str]:
    """The words of `text`, folded; single characters in scripts without spaces."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return _UNIT.findall(folded if folded.isascii() else folded.translate(_TABLE))


class NgramIndex:
    """Items to look for, and what was found of them so far."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._ngrams: list[npt.NDArray[np.uint64]] = []
        self._wanted: dict[int, dict[int, int]] = defaultdict(dict)
        """By length: each n-gram, and the first item that has it."""
        self._found: dict[int, dict[int, str]] = defaultdict(dict)

    def add(self, text: str) -> int:
        """Look for `text` too; gives back its number."""
        hashes = unit_hashes(units(text))
        length = min(LENGTH, len(hashes))
        ngrams = hashes_by_length(hashes, length)[length - 1] if length >= MIN_LENGTH else np.empty(0, np.uint64)
        self._lengths.append(length)
        self._ngrams.append(ngrams)
        number = len(self._lengths) - 1
        for ngram in ngrams.tolist():
            self._wanted[length].setdefault(ngram, number)
        return number

    def search(self, text: str, document_id: str) -> None:
        """Look for all items in one document."""
        for length, ngrams in self._matches(text):
            for ngram in ngrams:
                self._found[length].setdefault(ngram, document_id)

    def first_in(self, text: str) -> int | None:
        """The lowest number of an item of which an n-gram stands in `text`; nothing is kept of what was found."""
        numbers = (self._wanted[length][ngram] for length, ngrams in self._matches(text) for ngram in ngrams)
        return min(numbers, default=None)

    def _matches(self, text: str) -> Iterator[tuple[int, set[int]]]:
        """By length, the n-grams of items that stand in `text`."""
        if not self._wanted:
            return
        rows = hashes_by_length(unit_hashes(units(text)), max(self._wanted))
        for length, wanted in self._wanted.items():
            if length <= len(rows):
                yield length, wanted.keys() & rows[length - 1].tolist()

    def overlap(self, number: int) -> Overlap:
        """What was found of item `number`."""
        length, ngrams = self._lengths[number], self._ngrams[number].tolist()
        found = self._found[length]
        places = [found[ngram] for ngram in ngrams if ngram in found]
        return Overlap(length, len(ngrams), len(places), places[0] if places else None)


@dataclass(frozen=True)
class Overlap:
    """What was found of one item."""

    length: int
    """Units of its n-grams: 13, or all of it where it is shorter."""
    num_ngrams: int
    """N-grams of the item; 0 where it is too short to be looked for."""
    num_found: int
    """Those that stand in a searched document."""
    document_id: str | None
    """A document that has the first of them."""

    @property
    def is_measured(self) -> bool:
        """The item is long enough."""
        return self.num_ngrams > 0

    @property
    def is_contaminated(self) -> bool:
        """At least one n-gram was found."""
        return self.num_found > 0


@lru_cache(maxsize=2**20)
def _unit_hash(unit: str) -> int:
    return int.from_bytes(hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def unit_hashes(found: list[str]) -> npt.NDArray[np.uint64]:
    """A hash of each unit."""
    return np.fromiter((_unit_hash(unit) for unit in found), np.uint64, len(found))


def hashes_by_length(hashes: npt.NDArray[np.uint64], longest: int) -> list[npt.NDArray[np.uint64]]:
    """Hashes of the n-grams of 1, 2, … units; as many rows as `longest`, fewer where there are fewer units.

    Each row follows from the one before: h(a…z) = h(a…y) × multiplier + h(z), modulo 2^64.
    """
    rows = [hashes]
    for length in range(2, min(longest, len(hashes)) + 1):
        rows.append(rows[-1][:-1] * _MULTIPLIER + hashes[length - 1 :])
    return rows
