"""Words of a label that an extractor gives, in order, and words that it gives besides."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass
class Score:
    label: int = 0
    """Words."""
    given: int = 0
    found: int = 0
    """Words of the label that were given, in the label's order."""

    def add(self, other: Score) -> None:
        self.label += other.label
        self.given += other.given
        self.found += other.found

    @property
    def recall(self) -> float:
        return self.found / self.label if self.label else 1.0

    @property
    def surplus(self) -> float:
        """Share of what was given that is not the label's."""
        return 1 - self.found / self.given if self.given else 0.0


def words(text: str) -> list[str]:
    """Words without punctuation around them, in NFKC; a character each in scripts without spaces.

    Bullets, numbers of lists, and signs that generators put between words are no words.
    """
    text = re.sub(r"(?m)^\s*(?:[-*•]|[0-9]{1,3}\.)\s", "", text)
    text = unicodedata.normalize("NFKC", text).replace("\u00ad", "").replace("\u200b", "")
    text = re.sub(r"[\u200c-\u200f\u202a-\u202e\u2066-\u2069\ufeff\u0640]", "", text)
    text = _SPACELESS.sub(r" \g<0> ", text)
    found = (re.sub(r"^\W+|\W+$", "", word) for word in text.split())
    return [word.casefold() for word in found if word]


def score(label: str, given: str) -> Score:
    """How well `given` has the label's words: the longest common subsequence.

    Persian's break without a space (U+200C) may have been kept, lost, or become a space: PDF files do not have it.
    """
    scores = []
    for substitute in ("", " ") if "\u200c" in label else ("",):
        wanted, got = words(label.replace("\u200c", substitute)), words(given.replace("\u200c", substitute))
        scores.append(Score(len(wanted), len(got), _common(wanted, got)))
    return max(scores, key=lambda one: one.recall)


def _common(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, with a row of the table as one big integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << place
    mask = (1 << len(left)) - 1
    row = mask
    for word in right:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & mask
    return len(left) - row.bit_count()
