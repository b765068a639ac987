"""How well a text's letters fit a language: bits that its letters beyond ASCII cost, by tables of letter pairs.

letters.json is made by tools/letter_tables.py. A pair that was never seen costs what its second letter costs alone and
`_UNSEEN_PAIR` more. Only pairs with a character beyond ASCII count, since encodings differ in nothing else.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

_UNSEEN_PAIR, _ASCII = 3, 5
_UNSEEN_LETTER, _UNSEEN_SIGN = 19, 17
_EURO = 9
"""Rarer in the messages of programs that were counted than in other texts."""
_UNUSED, _UNUSED_SIGN = frozenset("¤¦¨¯´¸"), 22
"""Signs of ISO-8859-1 that texts do not use, where later encodings have letters and the euro sign."""
_IDEOGRAPH = 18
"""Of one that was not seen in a language that has them."""
_MIXED_CASE, _CAPITALS = 8, 2
"""A capital after a small letter; and after a capital."""
_IN_WORD = 8
"""A sign between two letters."""
_MIXED_SCRIPTS = 8
"""A letter of another script beside a Latin one."""
_DIGIT = 8
"""A digit beside a letter beyond ASCII."""
_LOOSE = 6
"""A dash with a letter on one side and a space on the other."""
_DASHES = frozenset("–—")
_JOINING = frozenset("’‘ʼ\xad‐‑–—…\u200c\u200d")
_BEYOND = re.compile(r"[^\x00-\x7f]+")
_MAX_SIGNS = 3
_SIGN_MEAN = 18.0
"""What a pair with a sign may cost, which is rare in any language."""
_SLACK = 4.0
"""Bits beyond the most that a text may cost; for short texts."""
_MIN_OWN = 20
"""A text in another script has at least one of its letters to so many Latin ones, …"""
_ENOUGH_OWN = 50
"""… or so many of them in all."""


@dataclass(frozen=True)
class Letters:
    """The table of one language."""

    chars: dict[str, int]
    """Bits of a character, in lower case."""
    pairs: dict[str, int]
    """Bits of the second when it follows the first; none in languages that are written without letters."""
    signs: dict[str, int]
    """Bits of characters that are no letters, in any language."""
    max_mean: float
    """What most texts of the language cost less than, in bits a pair; in a wrong encoding a text costs 13 and more."""
    is_latin: bool

    def bits(self, text: str) -> float | None:
        """What the text costs; None when it costs more than texts of the language do."""
        bits, number = self.cost(text)
        num_signs = sum(char in self.signs for char in text if char > "\x7f") if self.is_latin else 0
        most = self.max_mean * number + max(0.0, _SIGN_MEAN - self.max_mean) * 2 * min(num_signs, _MAX_SIGNS)
        most += _SLACK if self.pairs else 3 * _SLACK  # rare ideographs cost most
        if bits > most:
            return None
        if not self.is_latin and number < _ENOUGH_OWN:
            num_latin = sum(char.isascii() and char.isalpha() for char in text)
            num_own = sum(char > "\x7f" and char.isalpha() for char in text)
            return bits if num_own * _MIN_OWN >= num_latin else None
        return bits

    def cost(self, text: str) -> tuple[float, int]:
        """Bits of all pairs with a character beyond ASCII, and their number."""
        if not self.pairs:
            counts = {char: number for char, number in Counter(text).items() if char > "\x7f"}
            return sum(self._char(fold(char)) * number for char, number in counts.items()), sum(counts.values())
        padded = f" {text} "
        runs = Counter(padded[found.start() - 1 : found.end() + 1] for found in _BEYOND.finditer(padded))
        bits = sum(self._run(run) * number for run, number in runs.items())
        return bits, sum((len(run) - 1) * number for run, number in runs.items())

    def _run(self, run: str) -> float:
        folded = [fold(char) for char in run]
        bits = 0.0
        for one, other in pairwise(folded):
            known = None if other in _UNUSED or other == "€" else self.pairs.get(one + other)
            bits += self._char(other) + _UNSEEN_PAIR if known is None else known
        for one, other in pairwise(run):
            if other.isupper() and other > "\x7f":
                bits += _MIXED_CASE if one.islower() else _CAPITALS if one.isupper() else 0
            if one + other not in self.pairs and (_is_digit(one, other) or _is_digit(other, one)):
                bits += _DIGIT
            if one.isalpha() and other.isalpha() and _is_latin(one) != _is_latin(other):
                bits += _MIXED_SCRIPTS
        for before, sign, after in zip(run, run[1:], run[2:], strict=False):
            if before.isalpha() and after.isalpha() and _is_sign(sign) and sign not in _JOINING:
                bits += 0 if before.lower() + sign in self.pairs else _IN_WORD
            if sign in _DASHES and " " in (before, after) and before.isalpha() != after.isalpha():
                bits += _LOOSE
        return bits

    def _char(self, char: str) -> int:
        bits = None if char in _UNUSED or char == "€" else self.chars.get(char)
        if bits is not None:
            return bits
        if char < "\x80":
            return _ASCII
        if char in _UNUSED:
            return _UNUSED_SIGN
        if char == "€":
            return _EURO
        if not _is_sign(char):
            return _UNSEEN_LETTER if self.pairs or not "\u3400" <= char <= "\u9fff" else _IDEOGRAPH
        return self.signs.get(char, _UNSEEN_SIGN)


def fold(char: str) -> str:
    """The character that counts for `char`."""
    if char.isdigit() and char.isascii():
        return "0"
    if char.isspace() and char != "\xa0":
        return " "
    lower = char.lower()
    return lower if len(lower) == 1 else char


def _is_digit(char: str, letter: str) -> bool:
    return char.isascii() and char.isdigit() and letter > "\x7f" and letter.isalpha()


def _is_latin(letter: str) -> bool:
    return letter < "\u0250" or "\u1e00" <= letter <= "\u1eff"


def _is_sign(char: str) -> bool:
    return unicodedata.category(char)[0] not in "LM"


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(files("sovereign.lake").joinpath("letters.json").read_text("utf-8"))
    return tables


@cache
def letters(language: str) -> Letters | None:
    """The table of a language (primary subtag); None where there is none."""
    tables = _tables()
    language = tables["aliases"].get(language, language)
    if language not in tables["languages"]:
        return None
    table = tables["languages"][language]
    return make_letters(table, tables["signs"])


def make_letters(table: dict[str, Any], signs: dict[str, str]) -> Letters:
    """The table as letters.json has it."""
    chars = _expand(table["chars"], 1)
    usual = min(filter(str.isalpha, chars), key=lambda char: chars[char], default="é")
    pairs, max_mean = _expand(table["pairs"], 2), table.get("max_mean", 0.0)
    return Letters(chars, pairs, _expand(signs, 1), max_mean, _is_latin(usual))


def _expand(groups: dict[str, str], size: int) -> dict[str, int]:
    return {
        joined[start : start + size]: int(bits)
        for bits, joined in groups.items()
        for start in range(0, len(joined), size)
    }
