"""Ingest: a source's files in batches, each finished before it counts, so that a stage that was killed goes on there.

A finished batch is its Parquet files and then, in the work folder, a record of what they were made from and of their
digests. The same files in the same batches give the same bytes, whether the stage was interrupted or not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sovereign.errors import StageError
from sovereign.files import sha256_file, write_atomic
from sovereign.lake.admission import Admission, admission_to
from sovereign.lake.documents import Counts, DocumentWriter, count_documents
from sovereign.lake.records import Report
from sovereign.lake.sources import Piece, combine_digests, list_pieces, read_piece
from sovereign.profile import Source
from sovereign.receipts import code_version, config_digest
from sovereign.stages import StageContext

BATCH_BYTES = 256 * 2**20
"""A batch is full with so many bytes of files, as they lie there, …"""
_BATCH_PIECES = 10_000
"""… or so many files."""
_PROGRESS_EVERY = 500
Item = TypeVar("Item")


@dataclass
class Ingested:
    """What a batch, or a source, gave."""

    files: list[Path] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    counts: Counts = field(default_factory=Counts)

    def add(self, other: Ingested) -> None:
        """Put what `other` gave behind."""
        self.files += other.files
        self.report.add(other.report)
        self.counts.update(other.counts)


def ingest_source(context: StageContext, source: Source, folder: Path, first_file: int) -> Ingested:
    """Read `source` into `folder`, where its files are numbered from `first_file`.

    Raises:
        SourceError: it is not there.
        StageError: it has changed since the stage began, or a document was lost (a bug of ours).
        OSError: what was read cannot be written.
    """
    scratch, records = context.workdir / "scratch", context.workdir / "ingest" / source.name
    shutil.rmtree(scratch, ignore_errors=True)
    whole, digests = Ingested(), []
    with admission_to(
        source,
        context.profile.corpus.rights,
        (file for piece in list_pieces(source, context.store, scratch) for file in piece.host_files()),
        context.workdir / "opt-outs.sqlite",
    ) as admission:
        for number, pieces in enumerate(_batches(list_pieces(source, context.store, scratch))):
            batch = [(piece.name, piece.digest()) for piece in pieces]
            digests += batch
            start = first_file + len(whole.files)
            declared = source.model_dump(mode="json", exclude={"domain"})  # no part of a document
            made_from = {"code": code_version(), "source": declared, "pieces": batch, "start": start}
            key, record = config_digest(made_from | admission.digest()), records / f"{number:05}.json"
            done = _read_record(record, key, folder)
            if done is None:
                done = _read_batch(context, source, pieces, admission, folder, start)
                _write_record(record, key, done)
            whole.add(done)
    shutil.rmtree(scratch, ignore_errors=True)
    if combine_digests(iter(digests)) != context.inputs[f"source/{source.name}"]:
        raise StageError(f"source {source.name} has changed since the stage began", hint="run the stage again")
    return whole


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


def _read_batch(
    context: StageContext, source: Source, pieces: list[Piece], admission: Admission, folder: Path, start: int
) -> Ingested:
    report, counts = Report(), Counts()
    documents = (document for piece in pieces for document in read_piece(source, piece, report, admission))
    with DocumentWriter(folder, "documents", first=start) as writer:
        for document in with_progress(context, documents, f"source {source.name}"):
            writer.add(document)
            counts.add(document)
    written = count_documents(writer.files)
    if not report.found - report.skipped.total() == report.documents == written:
        raise StageError(
            f"documents of source {source.name} were lost",
            got=f"{written} written, {report.metrics()}",
            expected="found = documents + skipped",
            hint="this is a bug of the kit; please report it",
        )
    return Ingested(writer.files, report, counts)


def _write_record(path: Path, key: str, done: Ingested) -> None:
    files = {file.name: sha256_file(file) for file in done.files}
    record = {"key": key, "files": files, "report": done.report.metrics(), "counts": done.counts.to_json()}
    write_atomic(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def _read_record(path: Path, key: str, folder: Path) -> Ingested | None:
    """The finished batch, or None when there is none made from the same, or its files are not what they were."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if record.get("key") != key:
        return None
    files = {folder / name: digest for name, digest in record["files"].items()}
    if any(not file.is_file() or sha256_file(file) != digest for file, digest in files.items()):
        return None
    return Ingested(list(files), Report.from_metrics(record["report"]), Counts.from_json(record["counts"]))
