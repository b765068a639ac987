"""Sources read by the tests, with the checks that hold for all of them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from sovereign.lake.documents import Document
from sovereign.lake.records import Report
from sovereign.lake.sources import list_pieces, read_piece
from sovereign.profile import Source
from sovereign.store import FolderStore


def read(path: Path, language: str = "en", **more: Any) -> tuple[list[Document], Report]:
    source = Source(name="ss", path=str(path), owner="O", licence="CC0-1.0", language=language, **more)
    report = Report()
    documents = [
        one
        for piece in list_pieces(source, FolderStore(Path("/no store is needed")))
        for one in read_piece(source, piece, report)
    ]
    assert report.documents == len(documents)
    assert report.found == report.documents + report.skipped.total()
    assert len({document.doc_id for document in documents}) == len(documents)
    return documents, report


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0), "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd,
}  # fmt: skip
