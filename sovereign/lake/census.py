"""What a dataset's columns say and its manifest and receipts do not: sources, lengths, quality, dates, addresses.

One pass over the Parquet columns, a batch of rows at a time; texts are measured where they lie and never become Python
objects.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sovereign.lake.dataset import SPLITS, Dataset, split_of
from sovereign.lake.intake import Takes

ADDRESS = "url"
"""Column with a document's address on the web; a dataset may be without it."""
QUALITY_BINS = 20
_COLUMNS = ("text", "doc_id", "source", "language", "quality", "collected_at")
_BATCH_ROWS = 1024
_DATE = re.compile(r"(\d{4}(?:-(?:0[1-9]|1[0-2]))?)(?:$|[-T ])")


@dataclass
class Tally:
    """Documents and their characters."""

    documents: int = 0
    characters: int = 0

    def add(self, characters: int) -> None:
        """Count one document."""
        self.documents += 1
        self.characters += characters


@dataclass
class Dates:
    """When documents were collected."""

    earliest: str | None = None
    """`2026-03`, or `2026` where no month is said."""
    latest: str | None = None
    months: Counter[str] = field(default_factory=Counter)
    """Documents by month, or by year where no month is said."""
    unknown: int = 0
    """Documents without a date, or with one that is not ISO 8601."""

    def add(self, value: str | None) -> None:
        """Count one document's `collected_at`."""
        found = _DATE.match(value or "")
        if found is None:
            self.unknown += 1
            return
        month = found[1]
        self.earliest = month if self.earliest is None else min(self.earliest, month)
        self.latest = month if self.latest is None else max(self.latest, month)
        self.months[month] += 1

    @property
    def years(self) -> Counter[str]:
        """Documents by year."""
        years: Counter[str] = Counter()
        for month, documents in self.months.items():
            years[month[:4]] += documents
        return years

    def later_than(self, time: str) -> int:
        """Documents of a month, or year, after that of the ISO 8601 time."""
        return sum(documents for month, documents in self.months.items() if month > time[: len(month)])

    def earliest_by(self, time: str) -> str | None:
        """`earliest`; None where it is later than the ISO 8601 time, and so not right."""
        first = self.earliest
        return None if first is None or first > time[: len(first)] else first

    def latest_by(self, time: str) -> str | None:
        """`latest`; None where a document names a time later than this one: its date is not right, and unknown."""
        return None if self.later_than(time) else self.latest


@dataclass
class SourceCensus:
    """The documents of one source."""

    splits: dict[str, Tally] = field(default_factory=lambda: {split: Tally() for split in SPLITS})
    trained: Dates = field(default_factory=Dates)
    """Of the documents to train on."""
    websites: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Documents to train on by host name, without `www.`; those without an address are in none."""


@dataclass
class Census:
    """What was counted."""

    addressed: int = 0
    """Documents with an address on the web."""
    sources: defaultdict[str, SourceCensus] = field(default_factory=lambda: defaultdict(SourceCensus))
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by k, where they have 2^k up to 2^(k+1) - 1 characters; one without text counts as k = 0."""
    longest: int = 0
    """Characters."""
    quality: list[int] = field(default_factory=lambda: [0] * QUALITY_BINS)
    """Documents by quality, in equal bins from 0 to 1."""
    unmeasured: int = 0
    """Documents without a quality."""
    dates: Dates = field(default_factory=Dates)
    languages: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Documents to train on by language."""

    def add(self, batch: pa.RecordBatch, split: str, takes: Takes | None = None) -> None:
        """Count rows of one split; of the documents to train on those only that `takes` holds of."""
        text: Any = batch.column("text")
        columns: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in batch.schema.names[1:]}
        addresses = columns.get(ADDRESS, [None] * batch.num_rows)
        rows = zip(pc.utf8_length(text).to_pylist(), *(columns[name] for name in _COLUMNS[1:]), addresses, strict=True)
        for characters, doc_id, source, language, quality, collected_at, address in rows:
            if split != "train" or takes is None or takes(doc_id, source, language):
                self._add(split, characters, source, language, quality, collected_at, address)

    def _add(
        self,
        split: str,
        characters: int,
        source: str,
        language: str,
        quality: float | None,
        collected_at: str | None,
        address: str | None,
    ) -> None:
        own, host = self.sources[source], host_of(address or "")
        own.splits[split].add(characters)
        if split == "train":
            own.trained.add(collected_at)
            self.languages[language].add(characters)
            if host is not None:
                own.websites[host].add(characters)
        self.lengths[max(characters, 1).bit_length() - 1] += 1
        self.longest = max(self.longest, characters)
        self.dates.add(collected_at)
        self.addressed += host is not None
        if quality is None:
            self.unmeasured += 1
        else:
            self.quality[min(int(quality * QUALITY_BINS), QUALITY_BINS - 1)] += 1


def take_census(dataset: Dataset, takes: Takes | None = None) -> Census:
    """Count all documents of `dataset`, or of those to train on `takes` only; each file is fetched and removed again.

    Raises:
        StoreError: a file is missing or not what its receipt says.
    """
    census = Census()
    for name in dataset.files:
        path = dataset.fetch(name)
        with pq.ParquetFile(path) as file:
            columns = [*_COLUMNS, *(name for name in file.schema_arrow.names if name == ADDRESS)]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                census.add(batch.select(columns), split_of(name), takes)
        path.unlink()
    return census


def host_of(address: str) -> str | None:
    """The host name in an address, without `www.`; None where there is none."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return None
    return (host or "").rstrip(".").removeprefix("www.") or None
