"""Progress within one long file, of which perhaps no record is a document."""

from __future__ import annotations

import gzip
import json
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.lake.ingest import Watch
from sovereign.lake.records import Report
from sovereign.lake.sources import list_pieces, read_piece
from sovereign.profile import Source
from sovereign.store import FolderStore
from tests.sovereign.lake.web import page

NO_RECORD = b'{"title": "no text"}\n' * 60_000
PAGE = b"<page><title>A</title><ns>1</ns><id>1</id><revision><id>2</id><text>x</text></revision></page>"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", NO_RECORD),
        ("a.csv", b"text,owner\n" + b"row of another length\n" * 60_000),
        ("a.jsonl.gz", gzip.compress(b"".join(b'{"title": "%032x"}\n' % (7**500 * n % 16**32) for n in range(40_000)))),
        ("a.xml", b"<mediawiki>" + PAGE * 12_000 + b"</mediawiki>"),
        ("a.warc", gzip.decompress(page("https://a.org/robots.txt")) * 1500),
    ],
)
def test_l12_a_long_file_without_documents_shows_how_far_it_is(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    told = watched(tmp_path)
    assert {(file, unit) for file, _, _, unit in told} == {(name, "MiB")}
    parts = [done / total for _, done, total, _ in told]
    assert len(set(parts)) >= 3 and parts == sorted(parts)
    assert parts[-1] == 1 and told[-1][2] == pytest.approx(len(data) / 2**20)


def test_l12_a_long_parquet_file_shows_its_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [""] * 1000}), tmp_path / "a.parquet", row_group_size=250)
    assert watched(tmp_path) == [("a.parquet", start, 1000, "rows") for start in (0, 250, 500, 750)]


def watched(folder: Path) -> list[tuple[str, float, float, str]]:
    told: list[tuple[str, float, float, str]] = []
    source = Source(name="ss", path=str(folder), owner="O", licence="CC0-1.0", language="en")
    report = Report(watch=lambda *values: told.append(values))
    for piece in list_pieces(source, FolderStore(folder)):
        assert len(list(read_piece(source, piece, report))) in (0, report.documents)
    return told


def test_l12_progress_comes_every_two_seconds() -> None:
    told: list[dict[str, Any]] = []
    seconds = count(0, 0.5)
    watch = Watch(lambda message, **more: told.append({"message": message} | more), "source a", lambda: next(seconds))
    for done in range(12):
        watch("b.pdf", done, 12, "pages")
    assert [one["message"] for one in told] == ["source a: b.pdf"] * len(told)
    assert json.dumps(told[0]["done"]) == "3" and 2 <= len(told) <= 3
