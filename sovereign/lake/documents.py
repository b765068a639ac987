"""Documents of the lake: their columns, and Parquet files written and read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

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


class DocumentWriter:
    """Writes documents to `<folder>/<name>-00000.parquet`, …; at least one file, also when there is no document.

    A context manager. A row group is written as soon as it is full, so memory stays bounded; a file gets its final
    name only when it is complete.
    """

    def __init__(self, folder: Path, name: str, extra: Iterable[str] = ()) -> None:
        """Args: `extra` names further string columns."""
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
        self._path = self._folder / f"{self._name}-{len(self.files):05}.parquet"
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
        self._temporary.replace(self._path)
        self.files.append(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        else:
            self._parquet.close()
            self._temporary.unlink(missing_ok=True)


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Documents of Parquet files with the lake's columns, in order; further columns are left out."""
    return (document for document, _ in read_rows(paths))


def read_rows(paths: Iterable[Path], extra: Sequence[str] = ()) -> Iterator[tuple[Document, dict[str, str]]]:
    """The same with the values of the further columns named in `extra`."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=[*SCHEMA.names, *extra]):
                for row in batch.to_pylist():
                    further = {name: row.pop(name) for name in extra}
                    row["owners"], row["transforms"] = tuple(row["owners"]), tuple(row["transforms"])
                    yield Document(**row), further


def count_documents(paths: Iterable[Path]) -> int:
    """Number of documents in Parquet files, from their footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)
