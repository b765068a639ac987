"""A receipt's numbers for people: short lines, long tables by their largest entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

MAX_CHARS = 100
"""Of a line without its indentation."""
_FEW, _SHOWN = 12, 5
"""A table of more than so many entries is summarised by so many of them."""
_MOST_ROWS, _MOST_LINES = 60, 3
_MAX_DEPTH = 3
_INDENT = "  "
_SIZES = ("documents", "tokens", "found", "characters")
"""By the first of these that tables in a table have, the largest are shown."""


def metric_lines(metrics: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The lines, and whether something is left out of them."""
    report = _Report()
    lines = [_INDENT + line for line in report.table(metrics, 0)]
    return lines, report.is_short


class _Report:
    """Makes lines; knows whether all was shown."""

    def __init__(self) -> None:
        self.is_short = False

    def table(self, values: Mapping[str, Any], depth: int) -> Iterator[str]:
        """A line for each value, then the tables among the values, indented."""
        tables, rows = {}, []
        for name, value in values.items():
            if value is None:
                continue
            if (text := self._value(value, depth)) is None:
                tables[name] = value
            else:
                rows.append(f"{name}: {text}")
        for row in rows[:_MOST_ROWS]:
            yield from self._wrap(row)
        most = len(tables) if len(tables) <= _FEW else _SHOWN
        for name in sorted(tables, key=lambda name: -_size(tables[name]))[:most]:
            yield from self._wrap(f"{name}:")
            yield from (_INDENT + line for line in self.table(tables[name], depth + 1))
        if left := len(rows[_MOST_ROWS:]) + len(tables) - most:
            self.is_short = True
            yield f"and {left:,} more"

    def _value(self, value: Any, depth: int) -> str | None:
        """A value on one line; None for a table that needs some."""
        if isinstance(value, Mapping):
            return self._entries(value, depth)
        if not _is_list(value):
            return _scalar(value)
        texts = [f"{len(one)} entries" if isinstance(one, Mapping) else _scalar(one) for one in value]
        listed = ", ".join(texts)
        if len(listed) <= MAX_CHARS:
            return listed or "none"
        self.is_short = True
        return f"{len(texts):,} entries, the first: {texts[0]}"

    def _entries(self, value: Mapping[str, Any], depth: int) -> str | None:
        values = {name: one for name, one in value.items() if one is not None}
        if any(isinstance(one, Mapping) or _is_list(one) for one in values.values()):
            if depth < _MAX_DEPTH:
                return None
            self.is_short = True
            return f"{len(values):,} entries"
        numbers = {name: one for name, one in values.items() if isinstance(one, int | float)}
        if len(values) > _FEW and len(numbers) == len(values):
            self.is_short = True
            largest = sorted(numbers, key=lambda name: (-numbers[name], name))[:_SHOWN]
            listed = ", ".join(f"{name} {_scalar(numbers[name])}" for name in largest)
            return f"{len(values):,} entries, the largest: {listed}"
        return ", ".join(f"{name} {_scalar(one)}" for name, one in values.items()) or "none"

    def _wrap(self, row: str) -> list[str]:
        lines = wrap(row, MAX_CHARS, subsequent_indent=2 * _INDENT, break_on_hyphens=False)
        if len(lines) > _MOST_LINES:
            self.is_short = True
            lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][: MAX_CHARS - 2] + " …"]
        return lines


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _size(table: Mapping[str, Any]) -> float:
    return next((table[name] for name in _SIZES if isinstance(table.get(name), int | float)), 0)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
