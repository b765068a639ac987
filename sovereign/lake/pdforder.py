"""Right-to-left lines of a PDF file in the order of reading, from where their letters stand.

A file stores letters in any order: as they are read, as they are seen from the left, or both in one line. What people
see is right, so runs of letters are ordered by their place from right to left, and numbers and words of other scripts
between them from left to right: the Unicode Bidirectional Algorithm (https://www.unicode.org/reports/tr9/), inverted.
Inside a run the file's own order or its opposite is taken: letters of a ligature overlap, so their places say little.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

RTL = "\u0590-\u065f\u066a-\u06ef\u06fa-\u08ff\ufb1d-\ufdff\ufe70-\ufeff"
"""Letters and marks of scripts that are written from right to left, for a set of a regular expression."""
_DIGITS = "0-9\u0660-\u0669\u06f0-\u06f9"
_RTL_LETTER = re.compile(f"[{RTL}]")
_LATIN = rf"[^\W{_DIGITS}{RTL}]"
_OTHER_RUN = re.compile(rf"[^\s{RTL}]*{_LATIN}(?:[^{RTL}]*[{_DIGITS}]|[^{RTL}]*{_LATIN})?[+#]*")
_NUMBER = re.compile(rf"[{_DIGITS}](?:[{_DIGITS}]|[.,:/٫٬](?=[{_DIGITS}]))*")
_HEBREW_NUMBER = re.compile(rf"[%$€₪+-]?[{_DIGITS}](?:[{_DIGITS}]|[.,:/+-](?=[{_DIGITS}]))*[%$€₪]?")
_BRACKETS = re.compile(r"[()\[\]{}«»]")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_MIN_GAP = 0.012
"""Of a letter's height: PDFium also takes narrower gaps between two letters of a word for spaces."""
_SPACE = 0.1
"""Of a letter's height: a gap that is a space although PDFium saw none, since it has the words elsewhere."""
_JUMP = 0.8
"""Of two letters' widths and a tenth of their height: letters that are farther apart do not follow each other."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A character and where it stands, in points."""

    char: str
    left: float
    right: float
    height: float


def is_right_to_left(text: str) -> bool:
    """Whether most letters of the text are of a script that is written from right to left."""
    if text.isascii():
        return False
    rtl = len(_RTL_LETTER.findall(text))
    return rtl > 0 and 2 * rtl >= sum(map(str.isalpha, text))


def reading_order(letters: list[Letter]) -> str:
    """The text of a right-to-left line."""
    runs = sorted(_runs(letters), key=lambda run: -(run.left + run.right))
    parts: list[str] = []
    for place, run in enumerate(runs):
        if place and _is_gap(runs[place - 1], run):
            parts.append(" ")
        parts.append(run.text if run.is_rtl else run.text[::-1])
    return turned("".join(parts))


@dataclass(frozen=True, slots=True)
class _Run:
    """Letters of one direction that follow each other, or one other character."""

    text: str
    """Of a right-to-left run as it is read, of another as it is seen from the left."""
    left: float
    right: float
    height: float
    start: int
    """Places of its first character in the file's order, …"""
    stop: int
    """… and after its last."""
    is_rtl: bool


def _runs(letters: list[Letter]) -> list[_Run]:
    runs: list[_Run] = []
    start = 0
    for stop in range(1, len(letters) + 1):
        if stop == len(letters) or _is_between_runs(letters[start], letters[stop - 1], letters[stop]):
            if not _is_seen(letters[start]):
                runs.append(_run(letters, start, stop))
            start = stop
    return runs


def _is_seen(letter: Letter) -> bool:
    """Whether it is a space that the file does not have: PDFium saw a gap."""
    return letter.char == " " and letter.right <= letter.left


def _is_between_runs(first: Letter, before: Letter, after: Letter) -> bool:
    kind = _kind(first.char)
    if not kind or _kind(after.char) != kind:
        return True
    if unicodedata.combining(after.char) or unicodedata.combining(before.char):
        return False
    distance = abs(before.left + before.right - after.left - after.right) / 2
    return distance > _JUMP * (before.right - before.left + after.right - after.left) + 0.1 * before.height


@cache
def _kind(char: str) -> str:
    """The direction of a letter; empty for a character that has none, which is a run of its own."""
    if _RTL_LETTER.match(char):
        return "rtl"
    return "ltr" if char.isalnum() or unicodedata.combining(char) else ""


def _run(letters: list[Letter], start: int, stop: int) -> _Run:
    run = letters[start:stop]
    bases = [one for one in run if not unicodedata.combining(one.char)] or run
    is_rtl = _kind(run[0].char) == "rtl"
    is_rising = bases[-1].left + bases[-1].right > bases[0].left + bases[0].right
    groups = _with_marks(run)
    if len(bases) > 1 and is_rtl == is_rising:
        groups.reverse()
    left, right = min(one.left for one in bases), max(one.right for one in bases)
    return _Run("".join(groups), left, right, bases[0].height, start, stop, is_rtl)


def _with_marks(run: list[Letter]) -> list[str]:
    """Each letter with the marks over and under it: of the letter before, unless they stand over the next one."""
    groups: list[str] = []
    before: Letter | None = None
    held = ""
    for place, letter in enumerate(run):
        if not unicodedata.combining(letter.char):
            groups.append(letter.char + held)
            before, held = letter, ""
            continue
        after = next((one for one in run[place + 1 :] if not unicodedata.combining(one.char)), None)
        middle = (letter.left + letter.right) / 2
        is_of_next = after is not None and after.left <= middle <= after.right
        if groups and (before is None or before.left <= middle <= before.right or not is_of_next):
            groups[-1] += letter.char
        elif after is not None:
            held += letter.char
        else:
            groups.append(letter.char)
    return groups


def _is_gap(right: _Run, left: _Run) -> bool:
    """Whether there is a space between two runs, of which the first stands to the right."""
    if not (right.is_rtl or left.is_rtl) or " " in (right.text, left.text):
        return left.start == right.stop + 1 and " " not in (right.text, left.text)
    gap, height = right.left - left.right, max(right.height, 1.0)
    was_seen = abs(left.start - right.stop) == 1 or abs(right.start - left.stop) == 1
    return gap > (_MIN_GAP if was_seen else _SPACE) * height


def turned(text: str) -> str:
    """A line as it is seen from the right, in the order of reading."""
    text = _OTHER_RUN.sub(lambda found: f"\ue000{found[0][::-1].translate(_MIRRORED)}\ue001", text)
    number = _HEBREW_NUMBER if re.search("[\u05d0-\u05ea]", text) else _NUMBER
    parts = re.split("(\ue000[^\ue001]*\ue001)", text)
    parts = [one[1:-1] if one.startswith("\ue000") else number.sub(lambda found: found[0][::-1], one) for one in parts]
    return _with_right_brackets("".join(parts))


def _with_right_brackets(text: str) -> str:
    """The line with its brackets the other way round, where they close before they open."""
    found = _BRACKETS.findall(text)
    opened = sum(one in "([{«" for one in found[: len(found) // 2 or 1])
    closed = sum(one in ")]}»" for one in found[: len(found) // 2 or 1])
    return text.translate(_MIRRORED) if len(found) > 1 and closed > opened else text
