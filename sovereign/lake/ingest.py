"""Ingest: a source's files in batches, each finished before it counts, so that a stage that was killed goes on there.

A finished batch is a unit in the store (sovereign/lake/work.py): its Parquet files, and a marker with the digest of
what they were made from. The same files in the same batches give the same bytes, whether the stage was interrupted or
not. When all are finished, their files get the names of the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sovereign.errors import StageError
from sovereign.files import sha256_file
from sovereign.lake.admission import Admission, admission_to
from sovereign.lake.documents import Counts, Document, DocumentWriter, count_documents
from sovereign.lake.records import Report
from sovereign.lake.sources import Piece, combine_digests, list_pieces, read_piece
from sovereign.lake.work import Marker, Result, Work
from sovereign.profile import Source
from sovereign.receipts import code_version, config_digest
from sovereign.stages import StageContext

VERSION = 7
"""Of stage `corpus`: raised when the code changes what it gives."""
BATCH_BYTES = 256 * 2**20
"""A batch is full with so many bytes of files, as they lie there, …"""
_BATCH_PIECES = 10_000
"""… or so many files."""
_PROGRESS_EVERY = 500
_READ, _PUBLISH = "read", "publish"
Item = TypeVar("Item")


@dataclass
class Ingested:
    """What a batch, or a source, gave."""

    report: Report = field(default_factory=Report)
    counts: Counts = field(default_factory=Counts)

    def add(self, other: Ingested) -> None:
        """Count what `other` gave too."""
        self.report.add(other.report)
        self.counts.update(other.counts)


class Batches:
    """All batches of a run, in their order. A batch finished by a run that was interrupted is not made again."""

    def __init__(self, context: StageContext) -> None:
        self._context, self._store = context, context.store
        self._prefix = f"raw/{context.dataset}/"
        self._folder = context.workdir / "batch"
        self._work = Work(context, f"{self._prefix}units/", (_READ, _PUBLISH))
        self._finished, self._published = self._work.done(_READ), self._work.done(_PUBLISH)
        self._files: list[dict[str, str]] = []
        if self._finished:
            context.progress(f"{len(self._finished)} batches were finished before")

    def add(self, name: str, made_from: Mapping[str, Any], read: Callable[[Report], Iterator[Document]]) -> Ingested:
        """Add the batch of what `read` gives, which fills the report.

        Args:
            name: for people.
            made_from: JSON values: all that the batch depends on, but for the code and the number of its first file.
            read: called unless the batch is finished.

        Raises:
            StageError: a document was lost (a bug of ours).
            OSError: the documents cannot be written.
        """
        number, start = len(self._files), sum(map(len, self._files))
        key = config_digest({"code": [code_version(), VERSION], "start": start, **made_from})
        shutil.rmtree(self._folder, ignore_errors=True)
        marker = self._find(number, key) if number in self._finished else None
        if marker is None:
            if number in self._finished:
                self._context.progress(f"{name}: batch {number} was made from something else or is damaged; made anew")
                self._forget(number)
            marker = self._work.finish(_READ, number, self._write(name, start, key, read))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._files.append(marker.files)
        return Ingested(Report.from_metrics(marker.facts["report"]), Counts.from_json(marker.facts["counts"]))

    def publish(self) -> dict[str, str]:
        """Put the files in the place of the result before; gives the digest of each by store key.

        A file moves: the store holds it under one name only, but for the batch that is being moved.
        """
        stored = {self._prefix + name: digest for files in self._files for name, digest in files.items()}
        self._store.delete(f"{self._prefix}receipt.json")
        for key in self._store.list(f"{self._prefix}documents-"):
            if key not in stored:
                self._store.delete(key)
        for number, files in enumerate(self._files):
            self._context.progress("publish", done=number, total=len(self._files), unit="batches")
            units = {name: self._work.key(_READ, number, name) for name in files}
            if number not in self._published:
                for name, key in units.items():
                    self._store.copy(key, self._prefix + name)
                self._work.finish(_PUBLISH, number, Result())
            for key in units.values():
                self._store.delete(key)
        return stored

    def _find(self, number: int, key: str) -> Marker | None:
        """The finished batch; None when it was made from something else, or its files are not what they were."""
        try:
            marker = self._work.marker(_READ, number)
        except StageError:
            return None
        if marker.facts.get("key") != key:
            return None
        for name, digest in marker.files.items():
            stored = self._prefix + name if number in self._published else self._work.key(_READ, number, name)
            path = self._folder / name
            if not self._store.exists(stored):
                return None
            self._store.get_file(stored, path)
            if sha256_file(path) != digest:
                return None
            path.unlink()
        return marker

    def _forget(self, number: int) -> None:
        for step in (_PUBLISH, _READ):
            self._work.forget(step, number)
        self._published.discard(number)
        for key in self._store.list(self._work.key(_READ, number, "")):
            self._store.delete(key)

    def _write(self, name: str, start: int, key: str, read: Callable[[Report], Iterator[Document]]) -> Result:
        report, counts = Report(watch=partial(_watch, self._context, name)), Counts()
        with DocumentWriter(self._folder, "documents", first=start) as writer:
            for document in with_progress(self._context, read(report), name):
                writer.add(document)
                counts.add(document)
        written = count_documents(writer.files)
        if not report.found - report.skipped.total() == report.documents == written:
            raise StageError(
                f"documents of {name} were lost",
                got=f"{written} written, {report.metrics()}",
                expected="found = documents + skipped",
                hint="this is a bug of the kit; please report it",
            )
        return Result(writer.files, facts={"key": key, "report": report.metrics(), "counts": counts.to_json()})


def ingest_source(context: StageContext, source: Source, batches: Batches) -> Ingested:
    """Add the batches of `source`.

    Raises:
        SourceError: it is not there.
        StageError: it has changed since the stage began, or see `Batches.add`.
        OSError: see there.
    """
    scratch = context.workdir / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    whole, digests = Ingested(), []
    declared = source.model_dump(mode="json", exclude={"domain"})  # no part of a document
    with admission_to(
        source,
        context.profile.corpus.rights,
        (file for piece in list_pieces(source, context.store, scratch) for file in piece.host_files()),
        context.workdir / "opt-outs.sqlite",
    ) as admission:
        for pieces in _batches(list_pieces(source, context.store, scratch)):
            batch = [(piece.name, piece.digest()) for piece in pieces]
            digests += batch
            made_from = {"source": declared, "pieces": batch, **admission.digest()}
            whole.add(
                batches.add(f"source {source.name}", made_from, partial(_read, source, pieces, admission, scratch))
            )
    shutil.rmtree(scratch, ignore_errors=True)
    if combine_digests(iter(digests)) != context.inputs[f"source/{source.name}"]:
        raise StageError(f"source {source.name} has changed since the stage began", hint="run the stage again")
    return whole


def _read(
    source: Source, pieces: list[Piece], admission: Admission, scratch: Path, report: Report
) -> Iterator[Document]:
    for piece in pieces:
        yield from read_piece(source, piece, report, admission, scratch)


def _watch(context: StageContext, name: str, file: str, done: int, total: int, unit: str) -> None:
    context.progress(f"{name}: {file}", done=done, total=total, unit=unit)


def with_progress(
    context: StageContext, documents: Iterable[Item], message: str, *, start: int = 0, total: int | None = None
) -> Iterator[Item]:
    """The same documents, reported from time to time."""
    for number, document in enumerate(documents, start + 1):
        yield document
        if number % _PROGRESS_EVERY == 0:
            context.progress(message, done=number, total=total, unit="documents")


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += piece.size_bytes
        if size >= BATCH_BYTES or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
