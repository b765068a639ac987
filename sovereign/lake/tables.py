"""Files of many records: JSON lines, CSV and TSV with a row of names, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.lake import records
from sovereign.lake.decoding import find_encoding, fits
from sovereign.lake.opening import expands_too_far, open_expanded
from sovereign.lake.records import FIELDS, Record, Report, SourceFile, Unreadable

_SAMPLE_BYTES = 2**16
_SKIP_BYTES = 2**20
_MAX_BATCH, _BATCH_BYTES = 64, 2**30
"""Rows of a Parquet file that are decoded at once, and how large they may be."""


def read_jsonl(file: SourceFile, report: Report) -> Iterator[Record]:
    """A JSON object in each line, in UTF-8 as the format wants it; empty lines are no records."""
    for number, line in enumerate(_read_lines(file, guess=False), 1):
        where = f"{file.name}#{number}"
        if isinstance(line, Unreadable):
            report.skip(where, line.message)
        elif line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                report.skip(where, "not JSON")
                continue
            if isinstance(record, dict):
                yield where, record
            else:
                report.skip(where, "not a JSON object")


def read_csv(file: SourceFile, report: Report) -> Iterator[Record]:
    """A row of names, then rows; fields are parted by commas, semicolons or tabs, as the row of names is."""
    lines = _read_lines(file, guess=True)
    first = next(lines, "")
    if isinstance(first, Unreadable):
        raise first
    delimiter = max("\t;,", key=first.count)
    names = next(iter(_parse_rows(iter([first]), delimiter)), [])
    if isinstance(names, Unreadable) or "text" not in names:
        raise Unreadable("no column text")
    for number, row in enumerate(_parse_rows(lines, delimiter), 1):
        where = f"{file.name}#{number}"
        if isinstance(row, Unreadable):
            report.skip(where, row.message)
        elif len(row) != len(names):
            report.skip(where, "row of another length than the first")
        else:
            yield where, {name: value for name, value in zip(names, row, strict=True) if name in FIELDS and value}


def read_parquet(file: SourceFile, report: Report) -> Iterator[Record]:
    """Rows; a damaged group of rows does not stop those after it."""
    try:
        parquet = pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise _parquet_damage(error) from error
    with parquet:
        columns = [column for column in parquet.schema_arrow.names if column in FIELDS]
        if "text" not in columns:
            raise Unreadable("no column text")
        num_rows_in_all, num_packed = parquet.metadata.num_rows, file.path.stat().st_size
        start = num_bytes = 0
        for group in range(parquet.num_row_groups):
            num_rows, number = parquet.metadata.row_group(group).num_rows, 0
            size, packed = _sizes(parquet.metadata.row_group(group), columns)
            if expands_too_far(size, packed):
                report.skip(f"{file.name}#{start + 1}", "expands too far", num_rows_in_all - start)
                return
            # What stands once in the file can be in every row.
            batch_size = min(_MAX_BATCH, max(1, _BATCH_BYTES // max(1, size)))
            try:
                for batch in parquet.iter_batches(batch_size=batch_size, row_groups=[group], columns=columns):
                    for record in batch.to_pylist():
                        num_bytes += sum(len(value) for value in record.values() if isinstance(value, str))
                        if expands_too_far(num_bytes, num_packed):
                            place = start + number
                            report.skip(f"{file.name}#{place + 1}", "expands too far", num_rows_in_all - place)
                            return
                        number += 1
                        yield f"{file.name}#{start + number}", record
            except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
                where, lost = f"{file.name}#{start + number + 1}", max(1, num_rows - number)
                report.skip(where, _parquet_damage(error).message, lost)
            start += num_rows


def _sizes(group: pq.RowGroupMetaData, names: Sequence[str]) -> tuple[int, int]:
    """Bytes of the named columns of a group of rows, as they are encoded, and as they lie in the file."""
    columns = [group.column(number) for number in range(group.num_columns)]
    wanted = [column for column in columns if column.path_in_schema.partition(".")[0] in names]
    return sum(one.total_uncompressed_size for one in wanted), sum(one.total_compressed_size for one in wanted)


def _parquet_damage(error: Exception) -> Unreadable:
    """Raises: the error of a disk, which pyarrow gives a number, as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return Unreadable("damaged or not Parquet")


def _read_lines(file: SourceFile, *, guess: bool) -> Iterator[str | Unreadable]:
    """Lines as text, or why one cannot be read."""
    with open_expanded(file.path, file.name) as expanded:
        sample = expanded.peek(_SAMPLE_BYTES)
        whole = sample[: sample.rfind(b"\n") + 1] or sample
        encoding = file.source.encoding or find_encoding(whole, file.source.language if guess else "")
        if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):  # a line's end is more than one byte
            yield from _read_wide_lines(expanded, encoding)
            return
        is_certain, is_first = file.source.encoding is not None, True
        while line := expanded.readline(records.MAX_DOCUMENT_BYTES + 1):
            if len(line) > records.MAX_DOCUMENT_BYTES:
                while line and not line.endswith(b"\n"):
                    line = expanded.readline(_SKIP_BYTES)
                yield Unreadable("document too large")
            else:
                line = line.removeprefix(codecs.BOM_UTF8) if is_first else line
                yield _decode_line(line, file, encoding, is_certain=is_certain)
            is_first = False


def _read_wide_lines(expanded: io.BufferedReader, encoding: str) -> Iterator[str | Unreadable]:
    text = io.TextIOWrapper(expanded, encoding, errors="surrogateescape", newline="\n")
    try:
        while line := text.readline(records.MAX_DOCUMENT_BYTES + 1):
            if len(line) > records.MAX_DOCUMENT_BYTES:
                while line and not line.endswith("\n"):
                    line = text.readline(_SKIP_BYTES)
                yield Unreadable("document too large")
            elif any("\udc80" <= char <= "\udcff" for char in line):
                yield Unreadable(f"not {encoding}")
            else:
                yield line.removeprefix("\ufeff")
    finally:
        text.detach()


def _decode_line(line: bytes, file: SourceFile, encoding: str, *, is_certain: bool) -> str | Unreadable:
    """UTF-8, or else the file's encoding; each line for itself, since files are mixed."""
    try:
        return line.decode(encoding if is_certain else "utf-8")
    except UnicodeError:
        if is_certain:
            return Unreadable(f"not {encoding}")
    if not encoding.startswith("utf"):
        text = line.decode(encoding, "replace")
        if "\ufffd" not in text and fits(text, file.source.language):
            return text
    return Unreadable("not UTF-8")


def _parse_rows(lines: Iterator[str | Unreadable], delimiter: str) -> Iterator[list[str] | Unreadable]:
    """Rows of a CSV file, or why one cannot be read; after a damaged row, reading goes on at its second line."""
    again: deque[str | Unreadable] = deque()
    taken: list[str] = []
    failed: list[Unreadable] = []

    def feed() -> Iterator[str]:
        size = 0
        while size <= records.MAX_DOCUMENT_BYTES:
            line = again.popleft() if again else next(lines, None)
            if line is None:
                return
            if isinstance(line, Unreadable):
                failed.append(line)
                raise csv.Error
            size = size + len(line) if taken else len(line)
            taken.append(line)
            yield line
        raise csv.Error  # a quote that nothing closes

    csv.field_size_limit(records.MAX_DOCUMENT_BYTES)
    while True:
        try:
            for row in csv.reader(feed(), delimiter=delimiter, strict=True):
                taken.clear()
                if row:
                    yield row
            return
        except csv.Error:
            yield Unreadable("damaged CSV") if taken or not failed else failed[0]
            again.extendleft(reversed([*taken[1:], *(failed if taken else ())]))
            taken.clear()
            failed.clear()
