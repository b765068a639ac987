"""Files made to do harm, or damaged in ways that libraries do not expect: each is counted with its reason."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.errors import SourceError
from sovereign.lake import opening, pdf, records, tables
from sovereign.lake.admission import Admission
from sovereign.lake.optouts import OptOuts
from sovereign.lake.records import Report
from sovereign.lake.sources import list_pieces, read_piece, source_digest
from sovereign.profile import Source
from sovereign.store import FolderStore
from tests.sovereign.lake.pdf import pdf_of_one_stream, pdf_page
from tests.sovereign.lake.reading import read
from tests.sovereign.lake.test_readers import DUMP, response

BEYOND_UTC = "0001-01-01T00:00:00+05:00"
"""A time that UTC has not."""


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def test_times_that_utc_has_not(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines({"text": "x", "url": "https://e.org/a", "collected_at": BEYOND_UTC}))
    page = response(b"A page of text.", headers="Content-Type: text/plain")
    robots = response(b"User-agent: *\nDisallow: /b").replace(b"//e.org/", b"//e.org/robots.txt")
    dated = [one.replace(b"2099-01-01T00:00:00Z", BEYOND_UTC.encode()) for one in (page, robots)]
    (folder / "b.warc.gz").write_bytes(gzip.compress(b"".join(dated)))
    source, report = Source(name="ss", path=str(folder), owner="O", licence="CC0-1.0", language="en"), Report()
    pieces = list(list_pieces(source, FolderStore(tmp_path / "no store")))
    with OptOuts(tmp_path / "opt-outs", ["bot"]) as opt_outs:
        for piece in pieces:
            for file in piece.host_files():
                opt_outs.add(file)
        admission = Admission(frozenset(), opt_outs)
        documents = [one for piece in pieces for one in read_piece(source, piece, report, admission)]
    assert [(one.text, one.collected_at) for one in documents] == [("x", None), ("A page of text.", None)]
    assert report.metrics()["collected_at_not_iso_8601"] == 2
    assert Report.from_metrics(report.metrics()) == report


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-be"])
def test_wide_text_that_is_cut_or_has_half_a_character(suffix: str, encoding: str, tmp_path: Path) -> None:
    def row(text: str) -> bytes:
        return (f'{{"text": "{text}"}}\n' if suffix == "jsonl" else f"{text}\n").encode(encoding, "surrogatepass")

    start = b"" if suffix == "jsonl" else row("text")
    content = "\ufeff".encode(encoding) + start + row("one \ufffd") + row("\ud83d") + row("two") + row("cut")[:-3]
    (tmp_path / f"a.{suffix}").write_bytes(content)
    (tmp_path / "z.txt").write_text("the next file")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["one \ufffd", "two", "the next file"]
    assert report.skipped == {f"not {encoding[:6]}": 2}


@pytest.mark.parametrize("head", ['<?xml version="1.0" encoding="foo"?>', '<?xml version="1.0" encoding="hex"?>', None])
def test_xml_in_no_encoding_and_without_content(head: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("" if head is None else head + DUMP)
    (tmp_path / "z.txt").write_text("the next file")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["the next file"]
    assert report.skipped == {"truncated or damaged XML": 1}


@pytest.mark.parametrize(
    "value",
    [
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([1], pa.timestamp("us", tz="Mars/Phobos")),
    ],
)
def test_times_of_parquet_that_python_has_not(value: Any, tmp_path: Path) -> None:
    table = pa.table({"text": ["x"], "collected_at": value})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "z.txt").write_text("the next file")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["the next file"]
    assert report.skipped == {"collected_at cannot be read": 1}


def test_rows_of_parquet_are_bounded_as_lines_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 1000)
    texts = ["small", "x" * 1001, "é" * 501, "y" * 900]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["z"], "owner": ["o" * 1000]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": ["A" * (70 * 2**20)]}), tmp_path / "c.parquet", compression="zstd")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["small", "y" * 900]
    assert report.skipped == {"document too large": 4}


def test_pages_of_parquet_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_PAGE_BYTES", 2**20)
    writer = pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())]), use_dictionary=False)
    with writer:
        for number in (10, 3000, 20):  # three groups, the second with a page of 3 MB
            writer.write_table(pa.table({"text": [f"{number} " + "x" * 1000] * number}))
    documents, report = read(tmp_path)
    assert [one.doc_id.rpartition("#")[2] for one in documents] == [
        str(one) for one in (*range(1, 11), *range(3011, 3031))
    ]
    assert report.skipped == {"Parquet page too large": 3000}


@pytest.mark.parametrize("encoding", ["PLAIN", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_encoding_of_parquet_pages(encoding: str, version: Any, tmp_path: Path) -> None:
    texts = [f"text number {number} of one table, {'long ' * (number % 50)}" for number in range(5000)]
    how: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"text": encoding}}
    table = pa.table({"text": texts, "id": [*map(str, range(5000))], "n": pa.array([[1, 2]] * 5000)})
    how = {"use_dictionary": True} if encoding == "RLE_DICTIONARY" else how
    pq.write_table(
        table, tmp_path / "a.parquet", data_page_version=version, compression="zstd", row_group_size=2000, **how
    )
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == texts
    assert not report.skipped


def test_parquet_that_tells_a_text_a_million_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FREE_BYTES", 2**24)
    indices = pa.array([0] * 2_000_000, pa.int32())
    many = pa.DictionaryArray.from_arrays(indices, pa.array(["A" * 2**20]))
    pq.write_table(pa.table({"text": many}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    documents, report = read(tmp_path)
    assert len(documents) == 15
    assert report.skipped == {"expands too far": 2_000_000 - 15}


_LIMITED = """
import resource, sys
from pathlib import Path
from tests.sovereign.lake.reading import read
resource.setrlimit(resource.RLIMIT_DATA, (512 << 20,) * 2)
documents, report = read(Path(sys.argv[1]))
print(len(documents), dict(report.skipped))
"""


def test_memory_for_small_parquet_of_large_texts(tmp_path: Path) -> None:
    """Sixteen texts of 60 MiB in 3 kB: their batch took 3 GB."""
    pq.write_table(pa.table({"text": ["A" * (60 * 2**20)] * 16}), tmp_path / "a.parquet", compression="zstd")
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0 {'document too large': 3, 'expands too far': 13}"


@pytest.mark.timeout(250)
def test_pdf_whose_pages_share_a_stream_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the 20,000 pages would be an hour's work."""
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 10**5)
    (tmp_path / "a.pdf").write_bytes(pdf_of_one_stream(20_000, b"BT /F 1 Tf (" + b"a" * 20_000 + b") Tj ET"))
    (tmp_path / "b.pdf").write_bytes(pdf_of_one_stream(3, b"BT /F 1 Tf (" + b"a" * 20_000 + b") Tj ET"))
    documents, report = read(tmp_path)
    assert [one.text.count("a") for one in documents] == [60_000]
    assert report.skipped == {"document too large": 1}


MANY_PAGES = pdf_of_one_stream(20_000, b"BT /F 1 Tf (" + b"a" * 20_000 + b") Tj ET")


@pytest.mark.parametrize(
    ("content", "limit", "reason"),
    [
        (
            pdf_of_one_stream(1, b"BT /F 1 Tf (" + b"a" * 60_000_000 + b") Tj ET"),
            ("MAX_MEMORY_BYTES", 200 * 2**20),
            "PDF that takes too much memory",
        ),
        (MANY_PAGES, ("MAX_SECONDS", 1), "PDF that takes too long"),
    ],
)
def test_pdf_without_end_is_counted_and_the_next_one_read(
    content: bytes, limit: tuple[str, int], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, *limit)
    (tmp_path / "a.pdf").write_bytes(content)
    (tmp_path / "b.pdf").write_bytes(pdf_page("a page"))
    documents, report = read(tmp_path)
    assert ([one.text for one in documents], report.skipped) == (["a page"], {reason: 1})


def test_pdf_is_not_left_out_because_somebody_ended_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(MANY_PAGES)
    pdf._end()

    def end_the_reader() -> None:
        while (process := pdf._process) is None:
            time.sleep(0.01)
        process.terminate()

    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(end_the_reader)
        with pytest.raises(SourceError, match="ended by SIGTERM"):
            read(tmp_path)
        ended.result()


@pytest.mark.timeout(170)
@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("\n{|\n|a\n|}", "wiki page without text"),
        ("\n{|\n|a\n|}\nb", None),
        ("<b x='", "wiki page that cannot be parsed"),
        ("a<b c ", "wiki page that cannot be parsed"),
        ("<ref>a</ref>", "wiki page without text"),
    ],
)
def test_markup_takes_time_by_its_length(part: str, reason: str | None, tmp_path: Path) -> None:
    """By its square it would be minutes."""
    escaped = (part * 30_000).replace("<", "&lt;")
    page = f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{escaped}</text></revision></page>"
    (tmp_path / "a.xml").write_text(f"<mediawiki>{page}</mediawiki>")
    documents, report = read(tmp_path)
    assert report.skipped == ({reason: 1} if reason else {})
    assert sum(one.text.count("b") for one in documents) == (0 if reason else 30_000)


def test_comparisons_in_a_wiki_page_are_no_tags_without_end(tmp_path: Path) -> None:
    text = ("if a<b, and b<c then a<c. The '''proof''' is short. " * 50).strip()
    escaped = text.replace("<", "&lt;")
    page = f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{escaped}</text></revision></page>"
    (tmp_path / "a.xml").write_text(f"<mediawiki>{page}</mediawiki>")
    documents, _ = read(tmp_path)
    assert documents[0].text == "T\n\n" + text.replace("'''", "")


@pytest.mark.timeout(250)
def test_page_with_too_many_elements(tmp_path: Path) -> None:
    part = "<div><p>some text</p></div>"
    (tmp_path / "a.html").write_text(f"<html><body>{part * 200_000}</body></html>")
    (tmp_path / "b.html").write_text(f"<html><body>{part * 100}{' ' * 2**23}</body></html>")
    (tmp_path / "c.html").write_text(f"<html><body>{part * 100}</body></html>")
    documents, report = read(tmp_path)
    assert [one.doc_id for one in documents] == ["ss/c.html"]
    assert report.skipped == {"page with too many elements": 1, "document too large": 1}


@pytest.mark.timeout(120)
def test_marks_without_records_take_time_by_their_number(tmp_path: Path) -> None:
    """Each had the next 64 KiB searched: minutes."""
    page = response(b"A page of text.", headers="Content-Type: text/plain")
    (tmp_path / "a.warc").write_bytes(b"WARC/1.0\n" * 400_000 + b"\n" + page)
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["A page of text."]
    assert report.skipped == {"damaged WARC record": 400_000}


@pytest.mark.timeout(120)
def test_page_in_a_codec_that_is_no_encoding(tmp_path: Path) -> None:
    """Punycode takes time by the square of the length: minutes."""
    (tmp_path / "a.html").write_bytes(b"<html><head><meta charset=punycode></head><body>\x1b$ -" + b"a" * 3_000_000)
    documents, report = read(tmp_path)
    assert not documents
    assert report.skipped == {"not UTF-8": 1}


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("kind", ["jsonl", "warc", "csv", "xml", "txt"])
def test_compressed_files_without_bytes(kind: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{kind}.{suffix}").touch()
    name = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}[suffix]
    assert read(tmp_path)[1].skipped == {f"truncated or damaged {name}": 1}


def test_names_that_are_not_unicode_have_ids_of_their_own(tmp_path: Path) -> None:
    names = [b"\xff.txt", b"\xfe.txt", b"%FF.txt", b"%25FF.txt", "é%C3%A9.txt".encode(), b"caf\xe9.txt"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name.hex().encode())
    documents, _ = read(tmp_path)
    by_text = {bytes.fromhex(one.text): one.doc_id for one in documents}
    assert by_text[b"\xff.txt"] == "ss///%FF.txt"
    assert by_text[b"caf\xe9.txt"] == "ss/caf//%E9.txt"
    assert [by_text[name] for name in names[2:5]] == ["ss/%FF.txt", "ss/%25FF.txt", "ss/é%C3%A9.txt"]


def test_file_and_record_of_another_file_have_ids_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "7.txt", "text": "a record"}\n')
    (tmp_path / "a.jsonl#7.txt").write_text("a file")
    (tmp_path / "b#.jsonl").write_text('{"text": "a record of it"}\n')
    documents, _ = read(tmp_path)
    assert [one.doc_id for one in documents] == ["ss/a.jsonl#7.txt", "ss/a.jsonl//%237.txt", "ss/b//%23.jsonl#1"]


@pytest.mark.parametrize("language", ["../../../../tmp/x", "English", "en_US", "e", "fr\n", "en-" + "a" * 9])
def test_language_that_is_none(language: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        lines(*({"text": "x", "language": one} for one in (language, "zh-Hant-TW", "FR", "nds", "")))
    )
    documents, report = read(tmp_path)
    assert [one.language for one in documents] == ["zh-Hant-TW", "fr", "nds"]
    assert report.skipped == {"language is not a BCP 47 tag": 2}


def test_language_is_written_in_one_way(tmp_path: Path) -> None:
    tags = ["EN", "En", "eng", "EN-gb", "ger", "zh-hant", None]
    (tmp_path / "a.jsonl").write_bytes(lines(*({"text": "x", "language": one} for one in tags)))
    documents, _ = read(tmp_path, "fr")
    assert [one.language for one in documents] == ["en", "en", "en", "en-GB", "de", "zh-Hant", "fr"]


@pytest.mark.parametrize("value", ["", [], " ", 0, False, {}])
def test_blank_values_are_not_the_source_s(value: Any, tmp_path: Path) -> None:
    keys = ("owner", "language") if isinstance(value, str) else ("owner", "language", "licence", "license", "url")
    rows = [{"text": "x", key: value} for key in keys]
    nulls = dict.fromkeys(("owner", "language", "licence", "license", "url"))
    (tmp_path / "a.jsonl").write_bytes(lines(*rows, {"text": "y"} | nulls))
    documents, report = read(tmp_path)
    assert [(one.text, one.owners, one.licence, one.language, one.url) for one in documents] == [
        ("y", ("O",), "CC0-1.0", "en", None)
    ]
    wrong = {"owner": "owner is blank", "language": "language is not a BCP 47 tag"}
    reasons = [
        wrong[key] if isinstance(value, str) else f"{key} is not text".replace("license", "licence") for key in keys
    ]
    assert report.skipped == Counter(reasons)


@pytest.mark.parametrize("control", ["\x1b[2J", "\n", "\0", "\x7f", "\x9b"])
def test_control_characters_in_what_is_shown(control: str, tmp_path: Path) -> None:
    said = f"x{control}y"
    rows = [{"text": "x", key: said} for key in ("id", "owner", "url")]
    (tmp_path / "a.jsonl").write_bytes(lines(*rows, {"text": said}))
    documents, report = read(tmp_path)
    wanted = {f"{key} has control characters": 1 for key in ("doc_id", "url")}
    if control == "\n":  # a space, in a name
        assert [one.owners for one in documents] == [("x y",), ("O",)]
    else:
        wanted["owner has control characters"] = 1
    assert documents[-1].text == said
    assert report.skipped == wanted


def test_control_characters_in_a_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J\n.txt").write_text("a text")
    documents, _ = read(tmp_path)
    assert [one.doc_id for one in documents] == ["ss/a//%1B[2J//%0A.txt"]


def test_names_of_objects_that_are_not_unicode(tmp_path: Path) -> None:
    bucket = tmp_path / "store" / "bucket"
    bucket.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(bucket) + b"/caf\xe9.txt")).write_text("a text")
    source = Source(name="ss", path="s3://bucket", owner="O", licence="CC0-1.0", language="en")
    store = FolderStore(tmp_path / "store")
    pieces = list_pieces(source, store, tmp_path)
    documents = [one for piece in pieces for one in read_piece(source, piece, Report())]
    assert [one.doc_id for one in documents] == ["ss/caf//%E9.txt"]
    assert len(source_digest(source, store)) == 64


def test_time_that_is_none(tmp_path: Path) -> None:
    times = ["yesterday", {"year": 2026}, 1.7e9, 2_026_099_999, "2026-13-01", "\ud800", True, [1]]
    good = ["2026", "2026-05", "2026-05-01", "2026-05-01T12:00:00Z", "2026-05-01 12:00:00.5+02:00", 20260501]
    absent = [None, "", 0]
    rows = [{"text": "x", "collected_at": one} for one in (*times, *good, *absent)]
    (tmp_path / "a.jsonl").write_bytes(lines(*rows))
    documents, report = read(tmp_path)
    said = [one.collected_at for one in documents]
    assert said == [None] * len(times) + [str(one) for one in good] + [None] * len(absent)
    assert report.metrics()["collected_at_not_iso_8601"] == len(times)


def test_folder_that_cannot_be_entered_stops_nothing(tmp_path: Path) -> None:
    """Deeper than a path may be long, which holds for root too."""
    (tmp_path / "a").mkdir()
    handles = [os.open(tmp_path / "a", os.O_RDONLY)]
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=handles[-1])
        handles.append(os.open("d" * 250, os.O_RDONLY, dir_fd=handles[-1]))
    for handle in handles:
        os.close(handle)
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "z.txt").write_text("after it")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["after it"]
    assert report.skipped == {"File name too long": 1}
    assert report.examples[0].startswith("a/ddd")


_AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.sovereign.lake.reading import read
os.setuid(65534)
documents, report = read(Path(sys.argv[1]))
print([one.text for one in documents], dict(report.skipped))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_folder_of_somebody_else(mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir()
        (folder / "closed" / "a.txt").write_text("not for you")
        (folder / "closed").chmod(mode)
        (folder / "z.txt").write_text("open")
        done = subprocess.run([sys.executable, "-c", _AS_NOBODY, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['open'] {'Permission denied': 1}"


def test_source_that_is_no_folder_is_an_error_still() -> None:
    with pytest.raises(SourceError, match="is not there"):
        read(Path("/dev/null/x"))
