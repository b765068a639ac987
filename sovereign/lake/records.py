"""What readers of sources give: records with their place, a reason where one cannot be read, and the count of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign.errors import SourceError
from sovereign.profile import Source

MAX_DOCUMENT_BYTES = 16 * 2**20
"""A longer document, or line of a file, is skipped, so that memory stays bounded."""
MAX_FILE_BYTES = 64 * 2**20
"""The same of PDF files and WARC records, which can hold more than text."""
FIELDS = ("text", "id", "language", "owner", "licence", "license", "collected_at", "url")
"""What a record can say; all but `text` may be absent."""
NOTICE = object()
"""Key of a record under which a reader leaves what the page itself says of mining (`Notice`); no file has it."""
_MAX_EXAMPLES = 20

Record = tuple[str, dict[Any, Any]]
"""The place in the source, and the record: `FIELDS` and perhaps `NOTICE`."""


class Unreadable(SourceError):
    """One file or record cannot be read; the message is the reason. Counted, never raised out of this package."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Path in the source."""
    path: Path
    """Where it is now."""
    source: Source


@dataclass
class Report:
    """What was read and what was skipped: found = documents + all that was skipped."""

    found: int = 0
    """Records; a file that cannot be read at all counts as one."""
    documents: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Number by reason."""
    examples: list[str] = field(default_factory=list)
    """The first places that were skipped, with reason."""
    repaired: int = 0
    """Documents with text that was decoded twice, and is repaired."""
    without_robots: int = 0
    """Documents with an address, of a host whose robots.txt was not there to be read."""
    without_time: int = 0
    """Documents whose `collected_at` is not ISO 8601, and null in the lake."""
    extraction: Counter[str] = field(default_factory=Counter)
    """What readers of pages and PDF files kept and left out: words of pages, words and pages of PDF files."""
    watch: Callable[[str, int, int, str], None] | None = field(default=None, compare=False)
    """Called by a reader that is long at one file: its name, how much was done, of how much, of what."""

    def skip(self, where: str, reason: str, count: int = 1) -> None:
        """Count `count` records that cannot be read."""
        self.found += count
        self.skipped[reason] += count
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{where}: {reason}")

    def add(self, other: Report) -> None:
        """Count what `other` counted."""
        self.found += other.found
        self.documents += other.documents
        self.repaired += other.repaired
        self.without_robots += other.without_robots
        self.without_time += other.without_time
        self.skipped.update(other.skipped)
        self.extraction.update(other.extraction)
        self.examples = (self.examples + other.examples)[:_MAX_EXAMPLES]

    def metrics(self) -> dict[str, Any]:
        """For the receipt."""
        values = {
            "found": self.found,
            "documents": self.documents,
            "skipped": dict(sorted(self.skipped.items())),
            "skipped_examples": self.examples,
        }
        more = {
            "decoded_twice_and_repaired": self.repaired,
            "without_robots_txt": self.without_robots,
            "collected_at_not_iso_8601": self.without_time,
        }
        if self.extraction:
            values["extraction"] = dict(sorted(self.extraction.items()))
        return values | {name: number for name, number in more.items() if number}

    @classmethod
    def from_metrics(cls, metrics: dict[str, Any]) -> Report:
        """The report that gave `metrics`."""
        return cls(
            metrics["found"],
            metrics["documents"],
            Counter(metrics["skipped"]),
            list(metrics["skipped_examples"]),
            metrics.get("decoded_twice_and_repaired", 0),
            metrics.get("without_robots_txt", 0),
            metrics.get("collected_at_not_iso_8601", 0),
            Counter(metrics.get("extraction", {})),
        )


Reader = Callable[[SourceFile, Report], Iterator[Record]]
"""Reads one file; counts in the report what it skips, and raises Unreadable where it cannot go on."""
