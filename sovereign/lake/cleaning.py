"""Cleaning: normalisation of a text, and the digest that makes it the same as another."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from functools import cache

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_TRAILING = re.compile(r"(?<![ \t\xa0\u3000])[ \t\xa0\u3000]++$", re.MULTILINE)
"""Begins where spaces begin, so that a long row of them is gone through once."""
_BLANK_LINES = re.compile("\n{3,}")
MAX_MARKS = 30
"""Combining marks in a row; no script has more, and NFC takes the square of their number:
https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format"""


def normalise(text: str) -> tuple[str, tuple[str, ...]]:
    """The text in NFC, without control characters, trailing spaces and rows of blank lines; and what was changed.

    Of combining marks in a row the first `MAX_MARKS` stay. Applied again it changes nothing. Indentation stays, and so
    do the joiners that some scripts need.
    """
    # NFC comes after the removal: what is removed may have stood between a letter and its accent.
    visible = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    bounded = _cut_marks(visible)
    composed = unicodedata.normalize("NFC", bounded)
    # NFC makes two marks of some, and takes the mark off some letters.
    rebounded = composed if composed == bounded else _cut_marks(composed)
    tidy = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", rebounded)).strip()
    steps = {
        "control-characters": text != visible,
        "combining-marks": visible != bounded or composed != rebounded,
        "nfc": bounded != composed,
        "whitespace": rebounded != tidy,
    }
    return tidy, tuple(name for name, is_changed in steps.items() if is_changed)


def _cut_marks(text: str) -> str:
    return _long_rows().sub(r"\1", text) if not text.isascii() and _has_long_row(text) else text


def _has_long_row(text: str) -> bool:
    """Whether more than `MAX_MARKS` combining marks stand in a row; such a row is over one of the places looked at."""
    for place in range(MAX_MARKS, len(text), MAX_MARKS + 1):
        if not unicodedata.combining(text[place]):
            continue
        first, stop = place, place + 1
        while first > 0 and stop - first <= MAX_MARKS and unicodedata.combining(text[first - 1]):
            first -= 1
        while stop < len(text) and stop - first <= MAX_MARKS and unicodedata.combining(text[stop]):
            stop += 1
        if stop - first > MAX_MARKS:
            return True
    return False


@cache
def _long_rows() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{{MAX_MARKS}}})[{marks}]++")


def text_digest(text: str) -> bytes:
    """What makes two normalised texts the same document; 32 bytes."""
    return hashlib.sha256(text.encode()).digest()
