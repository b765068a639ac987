"""Tasks: the runs of row groups in the raw files that are cleaned as one unit. A pure function of the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.errors import StageError
from sovereign.lake.documents import SCHEMA
from sovereign.store import Store

_MAX_GROUPS = 32
"""Row groups of a task; of at most 2,000 documents and 8 Mi characters each (documents.py)."""
_TAIL_BYTES = 2**16
"""First guess of a footer's length."""
_MAGIC = 8
"""Bytes at a Parquet file's end: the length of the footer, and `PAR1`."""


class Span(NamedTuple):
    """Row groups of a raw file that a task has."""

    file: int
    """Which file, in the order of their keys."""
    first: int
    stop: int


class Task(NamedTuple):
    """Row groups that follow each other, of one file or several."""

    spans: tuple[Span, ...]
    num_documents: int


def list_tasks(store: Store, keys: Iterable[str], task_bytes: float) -> Iterator[Task]:
    """The tasks of the raw files, each of about `task_bytes` of text; only the files' footers are read.

    Raises:
        StageError: a file is not Parquet.
        StoreError: it is not there.
    """
    groups: list[tuple[int, int]] = []
    num_bytes = num_documents = 0
    for file, key in enumerate(keys):
        footer = _read_footer(store, key)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            groups.append((file, number))
            num_bytes += group.column(SCHEMA.get_field_index("text")).total_uncompressed_size
            num_documents += group.num_rows
            if num_bytes >= task_bytes or len(groups) == _MAX_GROUPS:
                yield Task(tuple(_spans(groups)), num_documents)
                groups, num_bytes, num_documents = [], 0, 0
    if groups:
        yield Task(tuple(_spans(groups)), num_documents)


def _spans(groups: Iterable[tuple[int, int]]) -> Iterator[Span]:
    for file, some in groupby(groups, key=itemgetter(0)):
        numbers = [number for _, number in some]
        yield Span(file, numbers[0], numbers[-1] + 1)


def _read_footer(store: Store, key: str) -> pq.FileMetaData:
    try:
        tail = store.get_part(key, -_TAIL_BYTES, _TAIL_BYTES)
        size = int.from_bytes(tail[-_MAGIC:][:4], "little") + _MAGIC
        if size > len(tail):
            tail = store.get_part(key, -size, size)
        return pq.read_metadata(pa.BufferReader(tail))
    except pa.ArrowException as error:
        raise StageError(
            f"{key} is no Parquet file: {error}", hint=f"delete {key} in the store and run stage corpus again"
        ) from error
