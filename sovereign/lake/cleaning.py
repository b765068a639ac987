"""Cleaning: normalisation of a text, and the digest that makes it the same as another."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t\xa0\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> tuple[str, tuple[str, ...]]:
    """The text in NFC, without control characters, trailing spaces and rows of blank lines; and what was changed.

    Applied again it changes nothing. Indentation stays, and so do the joiners that some scripts need.
    """
    # NFC comes after the removal: what is removed may have stood between a letter and its accent.
    visible = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    composed = unicodedata.normalize("NFC", visible)
    tidy = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", composed)).strip()
    steps = (("control-characters", text, visible), ("nfc", visible, composed), ("whitespace", composed, tidy))
    return tidy, tuple(name for name, before, after in steps if before != after)


def text_digest(text: str) -> bytes:
    """What makes two normalised texts the same document; 32 bytes."""
    return hashlib.sha256(text.encode()).digest()
