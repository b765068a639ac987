"""Text of others as people see it: on a terminal, in Markdown and in HTML. Nothing in it is obeyed.

Control characters are spelt (`\\x1b`). So is what changes the direction of the text around it; text in a right-to-left
script is isolated instead (Unicode Standard Annex 9), so that its own direction ends where it does.
"""

from __future__ import annotations

import html
import re
import unicodedata

_SHOWN = "\t\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
"""Tab, joiners that scripts need, and signs of Arabic and Syriac that Unicode calls format characters."""
_DIRECTION_MARKS = "\u200e\u200f\u061c"
"""Change nothing outside of the isolate that they are in."""
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"

_MARKS = re.compile(r"([\\`*_\[\]|$~])")
_LEADING = re.compile(r"^(?:(?=[#+=-])|([0-9]{1,9})(?=[.)](?:\s|$)))")
"""Before what makes a heading, rule or list of the line that it begins."""


class _Spelt(dict[int, int | str]):
    """A table for str.translate that spells control and format characters."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._shown = shown

    def __missing__(self, code: int) -> int | str:
        char = chr(code)
        is_spelt = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in self._shown
        self[code] = ascii(char)[1:-1] if is_spelt else code
        return self[code]


_VISIBLE = _Spelt(_SHOWN)
_ON_PAGES = _Spelt(_SHOWN + _DIRECTION_MARKS + "\n")


def visible(text: str) -> str:
    """Data as they may go to a terminal, on one line: control characters are spelt, such as \\x1b."""
    return text.translate(_VISIBLE)


def visible_lines(text: str) -> str:
    """As `visible`, with the lines of the text."""
    return "\n".join(map(visible, text.split("\n")))


def spell(text: str) -> str:
    """Data for a page whose elements isolate their direction (HTML's `bdi` and `dir`); lines stay."""
    return text.translate(_ON_PAGES)


def one_line(text: str) -> str:
    """Data on one line, spelt as by `spell`, for places that nothing isolates: isolated where it is right-to-left."""
    line = spell(" ".join(text.split()))
    is_isolated = any(char in _DIRECTION_MARKS or unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in line)
    return f"{_ISOLATE}{line}{_END_ISOLATE}" if is_isolated else line


def escape_markdown(text: str) -> str:
    """Text of others on one line, in which nothing is a mark of Markdown or HTML."""
    return _LEADING.sub(r"\1\\", _MARKS.sub(r"\\\1", html.escape(one_line(text), quote=False)))
