"""Sources: every kind of file, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import SourceError
from sovereign.lake import records
from sovereign.lake.documents import Document
from sovereign.lake.records import Report
from sovereign.lake.sources import Piece, list_pieces, read_piece, source_digest
from sovereign.profile import Source
from sovereign.store import FolderStore


def source(path: Path | str) -> Source:
    return Source(name="texts", path=str(path), owner="Library", licence="CC0-1.0", language="en")


def pieces_of(path: Path | str) -> list[Piece]:
    return list(list_pieces(source(path), FolderStore(Path("/no store is needed"))))


def digest(path: Path | str) -> str:
    return source_digest(source(path), FolderStore(Path("/no store is needed")))


def read(path: Path | str) -> tuple[list[Document], Report]:
    report = Report()
    documents = [one for piece in pieces_of(path) for one in read_piece(source(path), piece, report)]
    assert report.documents == len(documents)
    assert report.found == report.documents + report.skipped.total()
    return documents, report


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_every_kind_of_file_is_read_in_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.txt").write_bytes("\ufeffEtüde".encode())
    (tmp_path / "a.md").write_text("# Title")
    (tmp_path / "c.jsonl").write_bytes(lines({"text": "first"}, {"text": "second", "id": 7}) + b"\n  \n")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines({"text": "zipped"})))
    pq.write_table(pa.table({"text": ["of a table"], "other": [1]}), tmp_path / "e.parquet")
    documents, report = read(tmp_path)
    assert [(document.doc_id, document.text) for document in documents] == [
        ("texts/a.md", "# Title"),
        ("texts/c.jsonl#1", "first"),
        ("texts/c.jsonl#7", "second"),
        ("texts/d.jsonl.gz#1", "zipped"),
        ("texts/e.parquet#1", "of a table"),
        ("texts/b/one.txt", "Etüde"),
    ]
    assert not report.skipped
    assert documents[0] == Document("texts/a.md", "# Title", "en", "texts", ("Library",), "CC0-1.0", None)


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("text")
    documents, _ = read(tmp_path / "one.txt")
    assert [document.doc_id for document in documents] == ["texts/one.txt"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_record_overrides_the_profile(kind: str, tmp_path: Path) -> None:
    record = {
        "text": "Bonjour",
        "id": "x-1",
        "language": "fr",
        "owner": "Archives",
        "license": "CC-BY-4.0",
        "collected_at": "2025-05-01",
    }
    if kind == "jsonl":
        (tmp_path / "f.jsonl").write_bytes(lines(record))
    else:
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / "f.parquet")
    documents, _ = read(tmp_path)
    assert documents == [
        Document(f"texts/f.{kind}#x-1", "Bonjour", "fr", "texts", ("Archives",), "CC-BY-4.0", "2025-05-01")
    ]


def test_what_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    whole = lines(*({"text": f"line {number} {os.urandom(40).hex()}"} for number in range(2000)))
    (tmp_path / "a-arabic.txt").write_bytes("تقع المدينة".encode("cp1256"))  # the source says English
    (tmp_path / "b-cut.jsonl.gz").write_bytes(gzip.compress(whole)[:-20000])
    (tmp_path / "c-no.jsonl.gz").write_bytes(whole)
    broken = b'{"text": "cut\n' + b"[1]\n" + b'"text"\n' + b"[" * 100_000 + b'\n{"text": "\xff"}\n{"text": "good"}\n'
    (tmp_path / "d-broken.jsonl").write_bytes(broken)
    odd = [{"text": 3}, {}, {"text": None}, {"text": "x", "owner": ["A"]}, {"text": "\ud800"}]
    (tmp_path / "e-odd.jsonl").write_bytes(lines(*odd))
    (tmp_path / "f-no.parquet").write_bytes(b"PAR1 not really")
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "g-columns.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "h-numbers.parquet")
    (tmp_path / "i.doc").write_bytes(b"%DOC")
    (tmp_path / "j.pdf").write_bytes(b"%PDF")
    (tmp_path / "z-last.txt").write_text("read to the end")
    documents, report = read(tmp_path)
    texts = [document.text for document in documents]
    assert texts[-2:] == ["good", "read to the end"]
    assert texts[0].startswith("line 0")
    assert report.skipped == {
        "not UTF-8": 2,
        "truncated or damaged gzip": 2,
        "not JSON": 2,
        "not a JSON object": 2,
        "no text": 5,
        "owner is not text": 1,
        "text is not valid Unicode": 1,
        "damaged or not Parquet": 1,
        "no column text": 1,
        "unknown kind of file": 1,
        "damaged or not PDF": 1,
    }
    assert report.metrics()["skipped_examples"][0] == "a-arabic.txt: not UTF-8"


def test_damaged_parquet_gives_what_could_be_read(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    table = pa.table({"text": [os.urandom(64).hex() for _ in range(4000)]})
    pq.write_table(table, path, row_group_size=500, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 40000 : middle + 40000] = b"\xff" * 80000
    path.write_bytes(content)
    _, report = read(tmp_path)
    assert set(report.skipped) <= {"damaged or not Parquet", "text is not valid Unicode"}
    assert report.skipped


def test_sec12_links_lead_nowhere_out_of_a_source(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("a key of somebody else")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "real.txt").write_text("in the source")
    (folder / "a.txt").symlink_to(outside / "secret.txt")
    (folder / "b.txt").symlink_to("../outside/secret.txt")
    (folder / "c.txt").symlink_to("d.txt")
    (folder / "d.txt").symlink_to("/proc/self/environ")
    (folder / "deep" / "up.txt").symlink_to("../real.txt")
    (folder / "deep" / "way.txt").symlink_to("../../folder/real.txt")
    (folder / "door").symlink_to(outside)
    (folder / "through.txt").symlink_to("door/secret.txt")
    (folder / "fd.txt").symlink_to("/proc/self/fd/0")
    (folder / "null.txt").symlink_to("/dev/null")
    (folder / "loop").symlink_to(folder)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "gone.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.txt"))
        documents, report = read(folder)
        assert digest(folder)
    assert {document.text for document in documents} == {"in the source"} and len(documents) == 3
    assert report.skipped == {"link to a folder": 2, "link out of the source": 7, "not a file": 4}


def test_sec12_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """Between the listing and the reading somebody swaps a folder for a link."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for each in (folder / "sub", outside):
        (each / "a.txt").write_text(each.name)
    (piece,) = pieces_of(folder)
    (folder / "sub").rename(tmp_path / "away")
    (folder / "sub").symlink_to(outside)
    report = Report()
    assert list(read_piece(source(folder), piece, report)) == []
    assert report.skipped == {"link out of the source": 1}


def test_sec12_the_profile_may_name_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("text")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link.txt").symlink_to("real/a.txt")
    for path in (tmp_path / "link", tmp_path / "link.txt"):
        documents, _ = read(path)
        assert [document.text for document in documents] == ["text"]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    documents, _ = read(tmp_path)
    assert documents[0].doc_id.encode().startswith(b"texts/")
    assert digest(tmp_path)


def test_too_large_documents_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 1000)
    (tmp_path / "a.txt").write_text("x" * 1001)
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "y" * 5000}, {"text": "small"}))
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["small"]
    assert report.skipped == {"document too large": 2}


@pytest.mark.parametrize("path", ["/no/such/folder", "/dev/null/x"])
def test_missing_folder_is_a_source_error(path: str) -> None:
    for use in (lambda: pieces_of(path), lambda: digest(path)):
        with pytest.raises(SourceError, match="texts is not there") as caught:
            use()
        assert path in str(caught.value)


def test_digest_follows_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = digest(tmp_path)
    assert digest(tmp_path) == first
    (tmp_path / "a.txt").write_text("two")
    second = digest(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    third = digest(tmp_path)
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").symlink_to("nowhere")
    assert len({first, second, third, digest(tmp_path)}) == 4


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".txt", ".jsonl", ".jsonl.gz", ".parquet"]))
def test_any_bytes_are_read_or_counted(content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / f"file{suffix}").write_bytes(content)
    for document in read(folder)[0]:
        document.text.encode()


def test_python_stdlib() -> None:
    documents, report = read("python-stdlib")
    texts = {document.doc_id: document.text for document in documents}
    assert report.documents > 3000
    assert "Boolean operations" in texts["texts/topics#booleans"]
    dumps = next(text for text in texts.values() if text.startswith("json.dumps("))
    assert "Serialize ``obj`` to a JSON formatted ``str``" in dumps
    assert len(texts) == len(documents)
    assert not any("/test/" in name or "site-packages" in name for name in texts)
    assert len(digest("python-stdlib")) == 64
