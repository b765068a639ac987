"""Text that was decoded twice (`fÃ¼r`): UTF-8 whose bytes were taken for those of a code page. Found and repaired.

Each line for itself, since files are put together from several. A line is repaired where its letters then cost less
in its language (letters.py). A line that has right letters as well is left: it may be about such text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

from sovereign.lake.codepages import encodings_of
from sovereign.lake.letters import Letters, letters

_PAGES = ("cp1252", "latin-1", "cp1251", "cp1250", "cp1254", "mac-roman", "cp437", "cp850", "cp1253", "cp1256")
"""Code pages that UTF-8 is taken for; of two that fit the first counts."""
_MIN_GAIN = 8.0
"""Bits by which a line must cost less."""
_TIMES = 3
"""So often a text may have been decoded too much."""


def repair(text: str, language: str) -> tuple[str, int]:
    """The text with its lines repaired, and how many of them were.

    Args:
        text: of one document.
        language: its BCP 47 tag; in one without a table of letters, ftfy's rules count.
    """
    if text.isascii() or not _any_run().search(text):
        return text, 0
    names = encodings_of(language.partition("-")[0])
    tables = [table for name, _ in names if (table := letters(name)) is not None]
    lines, number = text.split("\n"), 0
    mend = partial(_repair_line, tables=tables) if tables else _repair_unknown
    for index, line in enumerate(lines):
        fixed = line
        for _ in range(_TIMES):
            better = mend(fixed)
            if better is None:
                break
            fixed = better
        if fixed != line:
            lines[index] = fixed
            number += 1
    return ("\n".join(lines), number) if number else (text, 0)


def _repair_unknown(line: str) -> str | None:
    import ftfy

    fixed = ftfy.fix_encoding(line)
    return fixed if fixed != line else None


def _repair_line(line: str, tables: list[Letters]) -> str | None:
    if line.isascii():
        return None
    best, best_gain = None, _MIN_GAIN
    for page in _PAGES:
        fixed, rest, is_word = _decode_runs(line, page)
        if not is_word or any(char > "\x7f" and char.isalpha() for char in rest):
            continue
        gain = max((table.cost(line)[0] - table.cost(fixed)[0] for table in tables), default=0.0)
        if gain > best_gain:
            best, best_gain = fixed, gain
    return best


def _decode_runs(line: str, page: str) -> tuple[str, str, bool]:
    """The line with all runs decoded that are UTF-8 in a code page; what is not in one of them; whether one is text.

    A single letter between other signs is not: `Ã©` in quotes is what a text about encodings has.
    """
    parts, rest, last, is_text = [], [], 0, False
    for found in _runs(page).finditer(line):
        try:
            text = _encode(found[0], page).decode()
        except UnicodeError:
            continue
        if unicodedata.combining(text[0]):
            continue
        parts += [line[last : found.start()], text]
        rest.append(line[last : found.start()])
        last = found.end()
        beside = line[found.start() - 1 : found.start()] + line[last : last + 1]
        is_text = is_text or len(text) > 1 or not text.isalpha() or any(map(str.isalnum, beside)) or not beside.strip()
    return "".join([*parts, line[last:]]), "".join([*rest, line[last:]]), is_text


def _encode(text: str, page: str) -> bytes:
    """As browsers do, which take bytes that a page leaves out for control characters."""
    return bytes(_bytes(page)[char] for char in text)


@cache
def _bytes(page: str) -> dict[str, int]:
    chars: dict[str, int] = {}
    for byte in range(0x80, 0x100):
        try:
            chars[bytes([byte]).decode(page)] = byte
        except UnicodeError:
            chars[chr(byte)] = byte
    return chars


@cache
def _runs(page: str) -> re.Pattern[str]:
    """Characters whose bytes have the form of UTF-8."""
    return re.compile(_pattern(page))


@cache
def _any_run() -> re.Pattern[str]:
    return re.compile("|".join(map(_pattern, _PAGES)))


def _pattern(page: str) -> str:
    chars = _bytes(page)

    def among(first: int, last: int) -> str:
        return "[" + "".join(re.escape(char) for char, byte in chars.items() if first <= byte <= last) + "]"

    follow = among(0x80, 0xBF)
    return f"(?:{among(0xC2, 0xDF)}{follow}|{among(0xE0, 0xEF)}{follow}{{2}}|{among(0xF0, 0xF4)}{follow}{{3}})+"
