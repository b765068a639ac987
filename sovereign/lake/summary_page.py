"""The training-content summary as one HTML page that needs nothing else: no script, font or picture from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from sovereign.lake.pages import percent, render_page
from sovereign.lake.summary_model import Sections, TrainingSummary

NOT_STATED = "not stated"
_GROUPS = {
    "1": "General information",
    "2": "List of data sources",
    "2.2": "Private non-publicly available datasets obtained from third parties",
    "3": "Data processing aspects",
}
"""Headings of the template that have sections below them."""
_QUESTIONS = ("is_used", "has_model_interactions", "has_service_interactions")
"""Where none of these is answered by yes, the rest of their section is not asked."""


@dataclass
class Table:
    """Rows under named columns."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Block:
    """A heading, with what stands below it."""

    number: str
    title: str
    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    """A question, and its answers."""
    tables: list[Table] = field(default_factory=list)

    @property
    def level(self) -> int:
        """Of the heading, 2 to 4."""
        return self.number.count(".") + 2


def render_summary(summary: TrainingSummary) -> str:
    """The page.

    Raises:
        PublicationError: the template asks for a value that is not there.
    """
    return render_page("summary.html", summary=summary, head=_rows(summary), blocks=_blocks(summary.sections))


def _rows(summary: TrainingSummary) -> list[tuple[str, list[str]]]:
    """What stands above the sections."""
    return _content(summary)[0] + _content(summary.dataset)[0]


def _blocks(sections: Sections) -> list[Block]:
    blocks: list[Block] = []
    for name, about in Sections.model_fields.items():
        number = str(about.alias)
        parts = number.split(".")
        for depth in range(1, len(parts)):
            group = ".".join(parts[:depth])
            if group in _GROUPS and all(block.number != group for block in blocks):
                blocks.append(Block(group, _GROUPS[group]))
        blocks.append(Block(number, str(about.title), *_content(getattr(sections, name))))
    return blocks


def _content(part: BaseModel) -> tuple[list[tuple[str, list[str]]], list[Table]]:
    """Questions with answers, and tables, of the fields that have a title."""
    fields = type(part).model_fields
    answers = [getattr(part, name) for name in _QUESTIONS if name in fields]
    is_asked = not answers or True in answers
    rows, tables = [], []
    for name, about in fields.items():
        value = getattr(part, name)
        if about.title is None or isinstance(value, BaseModel):
            continue
        if isinstance(value, list) and value and isinstance(value[0], BaseModel):
            tables.append(_table(about.title, value))
        elif value or name in _QUESTIONS or (is_asked and name != "comments"):
            rows.append((about.title, _texts(value)))
    return rows, tables


def _table(caption: str, parts: list[BaseModel]) -> Table:
    fields = type(parts[0]).model_fields
    rows = [[_cell(name, getattr(part, name)) for name in fields] for part in parts]
    return Table(caption, [str(about.title) for about in fields.values()], rows)


def _cell(name: str, value: Any) -> str:
    return percent(value) if name == "share" else ", ".join(_texts(value))


def _texts(value: Any) -> list[str]:
    """An answer for people."""
    if value is None:
        return [NOT_STATED]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, list):
        return [str(one) for one in value] or ["none"]
    return [f"{value:,}" if isinstance(value, int) else str(value)]
