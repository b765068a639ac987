"""Sizes of the pages in a Parquet file by their headers, so that they are known before a page is expanded.

pyarrow does not tell them. Pages: https://parquet.apache.org/docs/file-format/data-pages/. How headers are written:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_EXPANDED, _COMPRESSED = 2, 3
"""Fields of a header: bytes of the page that follows."""
_MAX_DEPTH = 4
_MAX_SIZE = 2**31


def read_page_sizes(file: io.BufferedReader, column: Any) -> Iterator[int]:
    """Bytes of each page of a column chunk, when it is expanded.

    Args:
        file: the Parquet file.
        column: the chunk's pyarrow.parquet.ColumnChunkMetaData.

    Raises:
        ValueError: a header is damaged.
    """
    first = column.dictionary_page_offset
    place = min(column.data_page_offset, first) if column.has_dictionary_page and first else column.data_page_offset
    end = place + column.total_compressed_size
    if place < 0:
        raise ValueError("page before the file")
    while place < end:
        file.seek(place)
        header = _read_struct(file, 0)
        compressed, expanded = header.get(_COMPRESSED, -1), header.get(_EXPANDED, -1)
        if compressed < 0 or expanded < 0:
            raise ValueError("page without a size")
        yield expanded
        place = file.tell() + compressed


def _read_struct(file: io.BufferedReader, depth: int) -> dict[int, int]:
    """The integers among the fields; the rest is passed over. Headers have no lists, sets and maps."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    found: dict[int, int] = {}
    number = 0
    while head := _read_byte(file):
        kind = head & 0x0F
        number = number + (head >> 4) if head >> 4 else _read_integer(file)
        if kind in (_I16, _I32, _I64):
            found[number] = _read_integer(file)
        elif kind == _BINARY:
            file.seek(min(_read_varint(file), _MAX_SIZE), io.SEEK_CUR)
        elif kind == _STRUCT:
            _read_struct(file, depth + 1)
        elif kind in (_BYTE, _DOUBLE):
            file.seek(1 if kind == _BYTE else 8, io.SEEK_CUR)
        elif kind not in (_TRUE, _FALSE):  # whose value is the kind
            raise ValueError("field of an unknown kind")
    return found


def _read_integer(file: io.BufferedReader) -> int:
    value = _read_varint(file)
    return value >> 1 ^ -(value & 1)


def _read_varint(file: io.BufferedReader) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = _read_byte(file)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("integer without end")


def _read_byte(file: io.BufferedReader) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("header without end")
    return byte[0]
