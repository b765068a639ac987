"""Files of many records: JSON lines, CSV and TSV with a row of names, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sovereign.display import visible
from sovereign.lake import records
from sovereign.lake.decoding import find_encoding, fits
from sovereign.lake.opening import Watch, expands_too_far, open_expanded
from sovereign.lake.parquet_pages import read_page_sizes
from sovereign.lake.records import FIELDS, Record, Report, SourceFile, Unreadable

_SAMPLE_BYTES = 2**16
_SKIP_BYTES = 2**20
_BUFFER_BYTES = 2**18
_BATCH_BYTES = 64 * 2**20
_MAX_BATCH_ROWS = 64
_MAX_PAGE_BYTES = 256 * 2**20
"""One page of each column, expanded. Writers aim at 1 MiB, but some put a thousand rows into a page at least."""
_DELIMITERS = "\t;,|"
_SEPARATOR = re.compile(r"""\s*"?sep=([^\w\s"]|\t)"?\s*""", re.IGNORECASE)
"""Spreadsheets write it before the row of names."""
_MAX_HEADER, _MAX_NAMES, _NAME_CHARS = 2**16, 20, 60
"""Characters of a row of names with a quote that is open; names that an error lists, and of each so many characters."""
_MAX_AGAIN, _FREE_AGAIN = 8, 2**20
"""Characters of CSV that are read again: so many for each that was read, and so many more."""
_DAMAGE, _MARK_DAMAGE = "\udcff", "sovereign-mark-damage"
"""Half a surrogate pair, which no text has, and the name of the handler of errors that puts it there."""


def read_jsonl(file: SourceFile, report: Report) -> Iterator[Record]:
    """A JSON object in each line, in UTF-8 as the format wants it; empty lines are no records."""
    for number, line in enumerate(_read_lines(file, report.watching(file.name), guess=False), 1):
        where = f"{file.name}#{number}"
        if isinstance(line, Unreadable):
            report.skip(where, line.message)
        elif line.strip():
            try:
                record = json.loads(line, object_pairs_hook=_Object)
            except (ValueError, RecursionError):
                report.skip(where, "not JSON")
                continue
            if not isinstance(record, _Object):
                report.skip(where, "not a JSON object")
            elif record.twice in FIELDS:
                report.skip(where, f"{record.twice} stands twice")
            else:
                yield where, record


class _Object(dict[str, Any]):
    """A JSON object that knows whether it says something twice, which parsers take in different ways."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = "" if len(self) == len(pairs) else _repeated([name for name, _ in pairs])


def _repeated(names: list[str]) -> str:
    """The first of `FIELDS` that is among the names more than once, or nothing."""
    return next((name for name in FIELDS if names.count(name) > 1), "")


def read_csv(file: SourceFile, report: Report) -> Iterator[Record]:
    """A row of names, then rows; fields are parted as in the row of names, or as a line `sep=;` before it says."""
    lines = _read_lines(file, report.watching(file.name), guess=True)
    delimiter, names = _read_names(lines)
    if repeated := _repeated(names):
        raise Unreadable(f"{repeated} stands twice")
    for number, row in enumerate(_parse_rows(lines, delimiter), 1):
        where = f"{file.name}#{number}"
        if isinstance(row, Unreadable):
            report.skip(where, row.message)
        elif len(row) != len(names):
            report.skip(where, "row of another length than the first")
        else:
            yield where, {name: value for name, value in zip(names, row, strict=True) if name in FIELDS and value}


def _read_names(lines: Iterator[str | Unreadable]) -> tuple[str, list[str]]:
    """What parts the fields, and the names of the columns.

    Raises:
        Unreadable: the line cannot be read, or no column is called text.
    """
    delimiters, header = _DELIMITERS, ""
    for line in lines:
        if isinstance(line, Unreadable):
            raise line
        if not header and (said := _SEPARATOR.fullmatch(line)):
            delimiters = said[1]
            continue
        header += line
        if header.strip() and (header.count('"') % 2 == 0 or len(header) > _MAX_HEADER):  # a name may have lines
            break
    found = [(delimiter, _split_names(header, delimiter)) for delimiter in delimiters]
    delimiter, names = max(found, key=lambda one: ("text" in one[1], len(one[1])))
    if "text" not in names:
        raise no_text(names)
    return delimiter, names


def _split_names(header: str, delimiter: str) -> list[str]:
    rows = _parse_rows(iter(header.splitlines(keepends=True)), delimiter)
    names = next(rows, [])
    return [] if isinstance(names, Unreadable) else [name.strip() for name in names]


def no_text(names: Iterable[str]) -> Unreadable:
    """The error of a table without a column `text`, with the columns that it has."""
    shown = [visible(name)[:_NAME_CHARS] for name in islice(names, _MAX_NAMES + 1)]
    listed = ", ".join(shown[:_MAX_NAMES]) + (", …" if len(shown) > _MAX_NAMES else "")
    return Unreadable("no column text", got=f"columns {listed}" if any(shown) else "no columns")


def read_parquet(file: SourceFile, report: Report) -> Iterator[Record]:
    """Rows; a damaged group of rows does not stop those after it."""
    try:
        parquet = pq.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _parquet_damage(error) from error
    with parquet, file.path.open("rb") as raw:
        columns = _flat_columns(parquet.schema)
        budget, start = _Budget(file.path.stat().st_size), 0
        for group in range(parquet.num_row_groups):
            num_rows, number = parquet.metadata.row_group(group).num_rows, 0
            if num_rows == 0:  # its columns have no pages
                continue
            if report.watch:
                report.watch(file.name, start, parquet.metadata.num_rows, "rows")
            try:
                size = _batch_rows(raw, parquet.metadata.row_group(group), columns)
                for batch in parquet.iter_batches(batch_size=size, row_groups=[group], columns=list(columns)):
                    for record in _read_batch(batch, budget):
                        number += 1
                        where = f"{file.name}#{start + number}"
                        if isinstance(record, Unreadable):
                            report.skip(where, record.message)
                        else:
                            yield where, record
            except Unreadable as error:  # too much has come of the file: nothing after it is read
                place = start + number
                report.skip(f"{file.name}#{place + 1}", error.message, parquet.metadata.num_rows - place)
                return
            except (pa.ArrowException, _GroupError, OSError) as error:
                where, lost = f"{file.name}#{start + number + 1}", max(1, num_rows - number)
                reason = error.reason if isinstance(error, _GroupError) else _parquet_damage(error).message
                report.skip(where, reason, lost)
            start += num_rows


class _GroupError(Exception):
    """A group of rows cannot be read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Budget:
    """What may come of a file in all: encodings can say in few bytes that a long text comes a million times."""

    def __init__(self, file_bytes: int) -> None:
        self._spent, self._file_bytes = 0, file_bytes

    def spend(self, num_bytes: int) -> None:
        """Raises: Unreadable when there is none left."""
        self._spent += num_bytes
        if expands_too_far(self._spent, self._file_bytes):
            raise Unreadable("expands too far")


def _flat_columns(schema: pq.ParquetSchema) -> dict[str, int]:
    """Number by name of the columns that a record may have.

    Raises:
        Unreadable: there is no text, or a list, whose length nothing bounds, in the place of a value.
    """
    found: dict[str, int] = {}
    for number in range(len(schema)):
        column = schema.column(number)
        name = column.path.partition(".")[0]
        if name in FIELDS:
            if column.path != name or column.max_repetition_level:
                raise Unreadable(f"{name} is not text")
            if name in found:
                raise Unreadable(f"{name} stands twice")
            found[name] = number
    if "text" not in found:
        raise no_text(dict.fromkeys(schema.column(number).path.partition(".")[0] for number in range(len(schema))))
    return found


def _batch_rows(raw: io.BufferedReader, group: pq.RowGroupMetaData, columns: dict[str, int]) -> int:
    """How many rows are read at once: no value is longer than its page.

    Raises:
        _GroupError: a page is too large, or its header damaged.
    """
    largest = 1
    try:
        for number in columns.values():
            largest += max(read_page_sizes(raw, group.column(number)), default=0)
    except (ValueError, IndexError) as error:
        raise _GroupError("damaged or not Parquet") from error
    if largest > _MAX_PAGE_BYTES:
        raise _GroupError("Parquet page too large")
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // largest))


def _read_batch(batch: pa.RecordBatch, budget: _Budget) -> Iterator[dict[Any, Any] | Unreadable]:
    """Records, or why one cannot be read."""
    columns = {name: _plain(batch.column(name)) for name in batch.schema.names}
    lengths = [pc.binary_length(column).to_pylist() for column in columns.values() if _has_length(column.type)]
    for row in range(batch.num_rows):
        size = sum(length[row] or 0 for length in lengths)
        budget.spend(1 + min(size, records.MAX_DOCUMENT_BYTES))
        if size > records.MAX_DOCUMENT_BYTES:
            yield Unreadable("document too large")
            continue
        record: dict[Any, Any] = {}
        try:
            for name, column in columns.items():
                value = column[row].as_py()
                # Many programs write text without saying that it is text; an id may be any bytes.
                if isinstance(value, bytes):
                    value = value.decode(errors="backslashreplace" if name == "id" else "strict")
                record[name] = value
        except UnicodeDecodeError:
            yield Unreadable(f"{name} is not valid Unicode")
        except (OverflowError, ValueError, LookupError):  # a time that Python has not, in a zone that nobody has
            yield Unreadable(f"{name} cannot be read")
        else:
            yield record


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _has_length(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _parquet_damage(error: Exception) -> Unreadable:
    """Raises: the error of a disk, which pyarrow gives a number, as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return Unreadable("damaged or not Parquet")


def _read_lines(file: SourceFile, watch: Watch | None, *, guess: bool) -> Iterator[str | Unreadable]:
    """Lines as text, or why one cannot be read."""
    with open_expanded(file.path, file.name, watch) as expanded:
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


def _mark_damage(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError), "it is used to read"
    return _DAMAGE, error.end


codecs.register_error(_MARK_DAMAGE, _mark_damage)


def _read_wide_lines(expanded: io.BufferedReader, encoding: str) -> Iterator[str | Unreadable]:
    text = io.TextIOWrapper(expanded, encoding, errors=_MARK_DAMAGE, newline="\n")
    try:
        while line := text.readline(records.MAX_DOCUMENT_BYTES + 1):
            if len(line) > records.MAX_DOCUMENT_BYTES:
                while line and not line.endswith("\n"):
                    line = text.readline(_SKIP_BYTES)
                yield Unreadable("document too large")
            elif _DAMAGE in line:
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
    """Rows of a CSV file, or why one cannot be read; after a damaged row, reading goes on at its second line.

    Where too much was read again for that, it goes on after the damaged row, each line of which counts.
    """
    again: deque[str | Unreadable] = deque()
    taken: list[str] = []
    failed: list[Unreadable] = []
    budget = _FREE_AGAIN

    def feed() -> Iterator[str]:
        nonlocal budget
        size = 0
        while size <= records.MAX_DOCUMENT_BYTES:
            is_new = not again
            line = next(lines, None) if is_new else again.popleft()
            if line is None:
                return
            if isinstance(line, Unreadable):
                failed.append(line)
                raise csv.Error
            budget += _MAX_AGAIN * len(line) if is_new else -len(line)
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
            if not taken:
                yield failed.pop()
                continue
            num_lost = 1 if budget >= sum(map(len, taken)) else len(taken)
            for _ in range(num_lost):
                yield Unreadable("damaged CSV")
            again.extendleft(reversed([*taken[num_lost:], *failed]))
            taken.clear()
            failed.clear()
