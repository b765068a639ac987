"""WARC of all versions, ARC, and WARC compressed with a dictionary."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from tests.sovereign.lake.reading import read
from tests.sovereign.lake.test_readers import pack_warc, record, warc

BODY = (
    "<html><body><p>"
    + "Der Erlass Nummer {} gilt für das ganze Land und alle seine Bewohner. " * 4
    + "</p></body></html>"
)


def arc_record(number: int, *, lie: int = 0, version: int = 1) -> bytes:
    body = BODY.replace("{}", str(number)).encode("cp1252")
    content = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n" + body
    more = "" if version == 1 else "200 ABCDEF - 4000 a.arc.gz "
    line = f"http://e.org/{number} 192.0.2.1 20080430204825 text/html {more}{len(content) + lie}\n"
    return line.encode() + content + b"\n"


def arc(*, lie: int = 0, version: int = 1) -> list[bytes]:
    """A file of four records; the second's length may lie."""
    spec = "URL IP-address Archive-date Content-type Archive-length\n"
    if version == 2:
        spec = spec.replace("Archive-length", "Result-code Checksum Location Offset Filename Archive-length")
    about = f"{version} 0 Org\n{spec}\n"
    more = "" if version == 1 else "200 - - 0 a.arc "
    head = f"filedesc://a.arc 0.0.0.0 20080430204825 text/plain {more}{len(about)}\n{about}\n"
    return [
        head.encode(),
        *(arc_record(number, lie=lie if number == 2 else 0, version=version) for number in (1, 2, 3, 4)),
    ]


@pytest.mark.parametrize("version", ["0.17", "0.18", "1.1"])
@pytest.mark.parametrize("gz", [False, True])
def test_l6_versions_of_warc(version: str, gz: bool, tmp_path: Path) -> None:
    made = [one.replace(b"WARC/1.0", f"WARC/{version}".encode(), 1) for one in warc(3)]
    (tmp_path / ("a.warc.gz" if gz else "a.warc")).write_bytes(pack_warc(made, gz=gz))
    documents, report = read(tmp_path)
    assert len(documents) == 3
    assert report.skipped == {"WARC record that is no page": 4}


def test_l6_versions_may_change_within_a_file_and_lengths_be_wrong(tmp_path: Path) -> None:
    made = warc(4, lie=7)
    made[2:] = [one.replace(b"WARC/1.0", b"WARC/0.18", 1) for one in made[2:]]
    (tmp_path / "a.warc").write_bytes(b"".join(made))
    documents, report = read(tmp_path)
    assert len(documents) == 3
    assert report.skipped["WARC record with a wrong length"] == 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("gz", [False, True])
def test_l6_arc(version: int, gz: bool, tmp_path: Path) -> None:
    (tmp_path / ("a.arc.gz" if gz else "a.arc")).write_bytes(pack_warc(arc(version=version), gz=gz))
    documents, report = read(tmp_path, "de")
    assert [one.url for one in documents] == [f"http://e.org/{number}" for number in (1, 2, 3, 4)]
    assert documents[0].collected_at == "2008-04-30T20:48:25Z"
    assert "Der Erlass Nummer 1 gilt für das ganze Land" in documents[0].text
    assert report.skipped == {"WARC record that is no page": 1}


@pytest.mark.parametrize("lie", [30, -30])
def test_l6_arc_with_a_wrong_length_is_read_on_at_the_next_record(lie: int, tmp_path: Path) -> None:
    (tmp_path / "a.arc").write_bytes(b"".join(arc(lie=lie)))
    documents, report = read(tmp_path, "de")
    assert [one.url for one in documents] == [f"http://e.org/{number}" for number in (1, 3, 4)]
    assert report.skipped == {"WARC record that is no page": 1, "ARC record with a wrong length": 1}


def test_l6_arc_that_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.arc").write_bytes(b"".join(arc())[:-100])
    documents, report = read(tmp_path, "de")
    assert len(documents) == 3
    assert report.skipped["truncated ARC record"] == 1


@pytest.mark.parametrize("is_packed", [False, True])
def test_l6_zstd_with_a_dictionary(is_packed: bool, tmp_path: Path) -> None:
    made = warc(6)
    dictionary = zstandard.train_dictionary(2**12, [one + bytes([i]) * 8 for one in made for i in range(40)])
    frames = [zstandard.ZstdCompressor(dict_data=dictionary).compress(one) for one in made]
    held = zstandard.compress(dictionary.as_bytes()) if is_packed else dictionary.as_bytes()
    head = b"\x5d\x2a\x4d\x18" + len(held).to_bytes(4, "little") + held
    (tmp_path / "a.warc.zst").write_bytes(head + b"".join(frames))
    (tmp_path / "b.warc.zst").write_bytes(b"".join(frames))  # its dictionary is elsewhere
    (tmp_path / "c.warc.zst").write_bytes(head[:100])
    documents, report = read(tmp_path)
    assert [one.doc_id.split("#")[0] for one in documents] == ["ss/a.warc.zst"] * 6
    assert report.skipped == {
        "WARC record that is no page": 7,
        "zstd with a dictionary that the file does not hold": 1,
        "truncated or damaged zstd": 1,
    }


def test_l6_records_that_are_no_whole_page(tmp_path: Path) -> None:
    part = record("response", "application/http", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nThe first part")
    made = [
        part.replace(b"WARC-Date", b"WARC-Segment-Number: 1\r\nWARC-Date", 1),
        record("continuation", "application/http", b"and the second."),
        record("revisit", "application/http", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"),
        record("metadata", "application/warc-fields", b"via: x"),
        record("resource", "text/plain", b"A text that stands for itself."),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, made)))
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["A text that stands for itself."]
    assert report.skipped == {"WARC record in segments": 1, "WARC record that is no page": 3}
