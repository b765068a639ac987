"""Documents of the lake: their columns, and Parquet files written and read in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.files import put_in_place

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("owners", pa.list_(pa.string()), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("collected_at", pa.string()),
        pa.field("quality", pa.float64()),
        pa.field("cluster_id", pa.string()),
        pa.field("transforms", pa.list_(pa.string()), nullable=False),
        pa.field("url", pa.string()),
    ]
)
"""The lake's columns."""

_GROUP_ROWS = 2_000
_GROUP_CHARS = 8 * 2**20
_FILE_CHARS = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Document:
    """One document with its provenance."""

    doc_id: str
    """Unique in the dataset: source, file and place in it."""
    text: str
    language: str
    """BCP 47 tag."""
    source: str
    """Name of the source in the profile, or `demonstration`."""
    owners: tuple[str, ...]
    """Everyone who gave this text; more than one after exact duplicates were merged."""
    licence: str
    """SPDX expression."""
    collected_at: str | None
    """ISO 8601; None where the source does not say."""
    quality: float | None = None
    """Mean distance from the limits of the quality rules, 0 to 1; None where it is not measured."""
    cluster_id: str | None = None
    """Group of duplicates and near duplicates; None before `curate`, and where the document is rejected before."""
    transforms: tuple[str, ...] = ()
    """What cleaning changed."""
    url: str | None = None
    """Where it was published; None where the source does not say."""


class DocumentWriter:
    """Writes documents to `<folder>/<name>-00000.parquet`, …; at least one file, also when there is no document.

    A context manager. A row group is written as soon as it is full, so memory stays bounded; a file gets its final
    name only when it is complete.
    """

    def __init__(self, folder: Path, name: str, extra: Iterable[str] = (), first: int = 0) -> None:
        """Args: `extra` names further string columns, `first` is the first file's number."""
        self._first = first
        self.schema = pa.schema([*SCHEMA, *(pa.field(column, pa.string()) for column in extra)])
        self.files: list[Path] = []
        self._folder, self._name = folder, name
        self._rows: list[dict[str, Any]] = []
        self._group_chars = self._file_chars = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def add(self, document: Document, **extra: str) -> None:
        """Add one document, with its values of the extra columns."""
        if self._file_chars > _FILE_CHARS:
            self._close()
            self._open()
        self._rows.append({name: getattr(document, name) for name in SCHEMA.names} | extra)
        self._group_chars += len(document.text)
        self._file_chars += len(document.text)
        if len(self._rows) >= _GROUP_ROWS or self._group_chars >= _GROUP_CHARS:
            self._write_group()

    def _open(self) -> None:
        self._path = self._folder / f"{self._name}-{self._first + len(self.files):05}.parquet"
        self._temporary = self._path.with_name(f".{self._path.name}.part")
        self._parquet = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        self._file_chars = 0

    def _write_group(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows, self._group_chars = [], 0

    def _close(self) -> None:
        self._write_group()
        self._parquet.close()
        put_in_place(self._temporary, self._path)
        self.files.append(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._close()
        finally:
            with suppress(OSError):  # on a full disk it cannot be closed either
                self._parquet.close()
            self._temporary.unlink(missing_ok=True)


class Counts:
    """Documents by language, owner and licence, for the receipt. A document of several owners counts for each."""

    def __init__(self) -> None:
        self.languages: Counter[str] = Counter()
        self.owners: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.characters: Counter[str] = Counter()

    def add(self, document: Document) -> None:
        """Count one document."""
        self.languages[document.language] += 1
        self.owners.update(document.owners)
        self.licences[document.licence] += 1
        self.characters[document.language] += len(document.text)

    def update(self, other: Counts) -> None:
        """Count what `other` counted."""
        for name, counter in vars(self).items():
            counter.update(getattr(other, name))

    def to_json(self) -> dict[str, dict[str, int]]:
        """JSON values, which `from_json` takes."""
        return {name: dict(counter) for name, counter in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, dict[str, int]]) -> Counts:
        """The counts that gave `values`."""
        counts = cls()
        for name, counter in vars(counts).items():
            counter.update(values[name])
        return counts

    def metrics(self) -> dict[str, Any]:
        """For the receipt."""
        return {
            "documents": self.languages.total(),
            "characters": self.characters.total(),
            "documents_by_language": dict(self.languages),
            "characters_by_language": dict(self.characters),
            "documents_by_owner": dict(self.owners),
            "documents_by_licence": dict(self.licences),
        }


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Documents of Parquet files with the lake's columns, in order; further columns are left out."""
    return (document for document, _ in read_rows(paths))


def read_rows(
    paths: Iterable[Path], extra: Sequence[str] = (), *, groups: Iterable[int] | None = None, text: bool = True
) -> Iterator[tuple[Document, dict[str, str]]]:
    """The same with the values of the further columns named in `extra`; of some row groups only, or of all.

    Without `text` it is empty, and not read.
    """
    columns = [*(name for name in SCHEMA.names if text or name != "text"), *extra]
    wanted = None if groups is None else list(groups)
    for path in paths:
        with pq.ParquetFile(path) as file:
            # A name that the file has not, such as url in those of before, is passed over.
            for batch in file.iter_batches(batch_size=256, row_groups=wanted, columns=columns):
                for row in batch.to_pylist():
                    row.setdefault("text", "")
                    further = {name: row.pop(name) for name in extra}
                    row["owners"], row["transforms"] = tuple(row["owners"]), tuple(row["transforms"])
                    yield Document(**row), further


def count_documents(paths: Iterable[Path]) -> int:
    """Number of documents in Parquet files, from their footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)
