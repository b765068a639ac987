"""Sources of real text: files and folders, read one document at a time.

`.txt` and `.md`: a file is a document. `.jsonl`, `.jsonl.gz`, `.parquet`: a line or row is a document with `text` and
optionally `id`, `language`, `owner`, `licence` (or `license`) and `collected_at`, which override the profile's entry.
What cannot be read is counted with its reason and stops nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.errors import SourceError
from sovereign.files import sha256_file
from sovereign.lake import stdlib
from sovereign.lake.documents import Document
from sovereign.profile import STDLIB, Source

MAX_DOCUMENT_BYTES = 64 * 2**20
"""A longer document is skipped, so that memory stays bounded."""
_MAX_EXAMPLES = 20
_FIELDS = ("text", "id", "language", "owner", "licence", "license", "collected_at")


class _Unreadable(SourceError):
    """One file or record cannot be read; the message is the reason. Never leaves this module."""


class _Lines(Protocol):
    def readline(self, size: int, /) -> bytes: ...


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

    def skip(self, where: str, reason: str) -> None:
        """Count one thing that cannot be read."""
        self.found += 1
        self.skipped[reason] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{where}: {reason}")

    def metrics(self) -> dict[str, Any]:
        """For the receipt."""
        return {
            "found": self.found,
            "documents": self.documents,
            "skipped": dict(sorted(self.skipped.items())),
            "skipped_examples": self.examples,
        }


def read_source(source: Source, report: Report) -> Iterator[Document]:
    """Documents of `source`, in the order of their paths; fills `report`.

    Raises:
        SourceError: the folder or file is not there or cannot be entered.
    """
    records = stdlib.read_records() if source.path == STDLIB else _read_files(source, report)
    for where, record in records:
        try:
            document = _to_document(source, where, record)
        except _Unreadable as error:
            report.skip(where, error.message)
            continue
        report.found += 1
        report.documents += 1
        yield document


def source_digest(source: Source) -> str:
    """Hex SHA-256 over the sorted paths of `source` and the digests of their content.

    Raises:
        SourceError: see `read_source`.
    """
    total = hashlib.sha256()
    for name, path in stdlib.list_files() if source.path == STDLIB else _list_files(source):
        try:
            content = sha256_file(path) if path.is_file() else "not a file"
        except OSError:
            content = "unreadable"
        total.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _list_files(source: Source) -> Iterator[tuple[str, Path]]:
    """Files as (path in the source, path), sorted within each folder; links to folders are listed, not followed."""
    root = Path(source.path).expanduser()
    if root.is_file():
        yield root.name, root
        return
    if not root.is_dir():
        raise SourceError(
            f"source {source.name} is not there",
            got=root,
            expected=f"a folder or file, or {STDLIB}",
            hint="correct corpus.sources[].path in the profile",
        )

    def refuse(error: OSError) -> None:
        raise SourceError(f"cannot enter a folder of source {source.name}: {error}") from error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(names + links):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _read_files(source: Source, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of all files as (place, record)."""
    for name, path in _list_files(source):
        name = name.encode("utf-8", "replace").decode()
        suffix = next((suffix for suffix in _READERS if name.lower().endswith(suffix)), None)
        try:
            if path.is_symlink() and path.is_dir():
                raise _Unreadable("link to a folder")
            if not path.is_file():  # opening a named pipe would wait for ever
                raise _Unreadable("not a file")
            if suffix is None:
                raise _Unreadable("unknown kind of file")
            yield from _READERS[suffix](name, path, report)
        except _Unreadable as error:
            report.skip(name, error.message)
        except OSError as error:
            report.skip(name, error.strerror or type(error).__name__)


def _read_text(name: str, path: Path, _report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise _Unreadable("document too large")
    try:
        yield name, {"text": path.read_bytes().decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        raise _Unreadable("not UTF-8") from error


def _read_jsonl(name: str, path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        yield from _read_lines(name, file, report)


def _read_jsonl_gz(name: str, path: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with gzip.open(path) as file:
            yield from _read_lines(name, file, report)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _Unreadable("truncated or damaged gzip") from error


def _read_lines(name: str, file: _Lines, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    while line := file.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        where = f"{name}#{number}"
        if len(line) > MAX_DOCUMENT_BYTES:
            report.skip(where, "document too large")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_DOCUMENT_BYTES)
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            report.skip(where, "not UTF-8")
        except (ValueError, RecursionError):
            report.skip(where, "not JSON")
        else:
            if isinstance(record, dict):
                yield where, record
            else:
                report.skip(where, "not a JSON object")


def _read_parquet(name: str, path: Path, _report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [column for column in file.schema_arrow.names if column in _FIELDS]
            if "text" not in columns:
                raise _Unreadable("no column text")
            for batch in file.iter_batches(batch_size=64, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{name}#{number}", record
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _Unreadable("damaged or not Parquet") from error


_READERS: dict[str, Callable[[str, Path, Report], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".parquet": _read_parquet,
}


def _to_document(source: Source, where: str, record: dict[str, Any]) -> Document:
    """One document; `where` is its place in the source."""
    text = record.get("text")
    if not isinstance(text, str):
        raise _Unreadable("no text")
    place = f"{where.rpartition('#')[0]}#{record['id']}" if record.get("id") is not None else where
    values = {
        "doc_id": f"{source.name}/{place}",
        "text": text,
        "language": record.get("language") or source.language,
        "owner": record.get("owner") or source.owner,
        "licence": record.get("licence") or record.get("license") or source.licence,
        "collected_at": str(record["collected_at"]) if record.get("collected_at") else "",
    }
    for key, value in values.items():
        if not isinstance(value, str):
            raise _Unreadable(f"{key} is not text")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can escape half a surrogate pair
            raise _Unreadable(f"{key} is not valid Unicode") from error
    return Document(
        doc_id=values["doc_id"],
        text=text,
        language=values["language"],
        source=source.name,
        owners=(values["owner"],),
        licence=values["licence"],
        collected_at=values["collected_at"] or None,
    )
