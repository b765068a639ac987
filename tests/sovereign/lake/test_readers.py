"""Readers of archives and pages, compressed files, bombs: what is read, and what of damaged files is lost, counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.lake import archives, opening, records
from sovereign.lake.documents import Document
from tests.sovereign.lake.pdf import pdf_page
from tests.sovereign.lake.reading import COMPRESSIONS, read

FILLER = "<p>The river flows through the old town, past the market and the school, and on to the sea in the south.</p>"
PAGE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Menu</a></nav><article><h1>Title</h1>"
    "<p>{}</p>" + 3 * FILLER + "</article>"
)
SENTENCE = "The library of the city opens at nine in the morning and closes late in the evening, number {}."


def record(kind: str, content_type: str, body: bytes, *, lie: int = 0) -> bytes:
    """A WARC record; `lie` is added to its length."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{len(body)}>\r\nWARC-Target-URI: http://e.org/\r\n"
    )
    head += (
        f"WARC-Date: 2099-01-01T00:00:00Z\r\nContent-Type: {content_type}\r\nContent-Length: {len(body) + lie}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def response(body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: text/html", lie: int = 0) -> bytes:
    """The record of a server's answer."""
    return record("response", "application/http", f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body, lie=lie)


def warc(pages: int = 5, *, lie: int = 0) -> list[bytes]:
    """Records as crawlers write them: a warcinfo, then a request and a response for each page; the third may lie."""
    made = [record("warcinfo", "application/warc-fields", b"software: test\r\n")]
    for number in range(pages):
        made.append(record("request", "application/http", b"GET / HTTP/1.1\r\nHost: e.org\r\n\r\n"))
        made.append(response(PAGE.format(SENTENCE.format(number)).encode(), lie=lie if number == 2 else 0))
    return made


def pack_warc(made: list[bytes], *, gz: bool) -> bytes:
    """A file of records; compressed, each is a gzip member."""
    return b"".join(gzip.compress(one, mtime=0) if gz else one for one in made)


def numbers(documents: list[Document]) -> list[int]:
    return [number for one in documents for number in range(100) if SENTENCE.format(number) in one.text]


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_compressed_files_are_read_like_plain_ones(kind: str, tmp_path: Path) -> None:
    content = b"".join(json.dumps({"text": f"line {number}"}).encode() + b"\n" for number in range(1000))
    (tmp_path / f"a.jsonl.{kind}").write_bytes(COMPRESSIONS[kind](content[:5000]) + COMPRESSIONS[kind](content[5000:]))
    (tmp_path / f"b.txt.{kind}").write_bytes(COMPRESSIONS[kind](b"one text"))
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == [*(f"line {number}" for number in range(1000)), "one text"]
    assert not report.skipped


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_what_comes_before_a_truncation_is_read(kind: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"line {number} {hash((number, 'x'))}"}) for number in range(60_000)]
    packed = COMPRESSIONS[kind]("\n".join(lines).encode())
    (tmp_path / f"a.jsonl.{kind}").write_bytes(packed[: len(packed) * 3 // 4])
    documents, report = read(tmp_path)
    name = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}[kind]
    assert report.skipped == {f"truncated or damaged {name}": 1}
    assert [one.text for one in documents] == [json.loads(line)["text"] for line in lines[: len(documents)]]
    assert len(documents) > 20_000


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "warc", "xml", "html"])
def test_bombs_end_early(kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FREE_BYTES", 2**20)
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 2**24)
    head = {
        "csv": b"text\n",
        "warc": b"WARC/1.0\r\nContent-Length: 99999999999\r\n\r\n",
        "xml": b"<mediawiki><page><text>",
    }
    (tmp_path / f"bomb.{suffix}.{kind}").write_bytes(COMPRESSIONS[kind](head.get(suffix, b"") + b" " * 2**26))
    (tmp_path / "z.txt").write_text("after it")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["after it"]
    assert report.skipped["expands too far"] == 1


def test_bomb_inside_a_warc_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 2**20)
    body = gzip.compress(b" " * 2**27)
    (tmp_path / "a.warc").write_bytes(response(body, headers="Content-Type: text/plain\r\nContent-Encoding: gzip"))
    assert read(tmp_path)[1].skipped == {"document too large": 1}


@pytest.mark.parametrize(("coding", "codec"), [("gzip", "gzip"), ("br", "brotli"), ("zstd", "zstd")])
def test_content_codings_of_pages(coding: str, codec: Any, tmp_path: Path) -> None:
    text = "".join(SENTENCE.format(number) + "\n" for number in range(100))
    body = pa.compress(text.encode(), codec=codec, asbytes=True)
    headers = f"Content-Type: text/plain\r\nContent-Encoding: {coding}"
    (tmp_path / "a.warc").write_bytes(
        response(body, headers=headers) + response(body[: len(body) // 2], headers=headers)
    )
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == [text]
    assert report.skipped == {"truncated or damaged content encoding": 1}


def test_page_that_the_crawler_cut(tmp_path: Path) -> None:
    whole = response(b"A page of text.", headers="Content-Type: text/plain")
    cut = whole.replace(b"WARC-Type:", b"WARC-Truncated: length\r\nWARC-Type:", 1)
    unknown = response(b"A page of text.", headers="Content-Type: text/plain\r\nContent-Encoding: rot13")
    (tmp_path / "a.warc").write_bytes(whole + cut + unknown)
    documents, report = read(tmp_path)
    assert [one.doc_id for one in documents] == ["ss/a.warc#1"]
    assert report.skipped == {"truncated WARC record": 1, "content encoding that is not known": 1}


@pytest.mark.parametrize("gz", [False, True])
def test_warc(gz: bool, tmp_path: Path) -> None:
    (tmp_path / ("a.warc.gz" if gz else "a.warc")).write_bytes(pack_warc(warc(), gz=gz))
    documents, report = read(tmp_path)
    assert numbers(documents) == [0, 1, 2, 3, 4]
    assert "Menu" not in documents[0].text
    assert report.skipped == {"WARC record that is no page": 6}
    assert documents[0].collected_at == "2099-01-01T00:00:00Z"  # as the crawler's clock said


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("lie", [-40, -1, 1, 40, 400, 10**6, 10**12])
def test_warc_with_a_wrong_length_goes_on_at_the_next_record(lie: int, gz: bool, tmp_path: Path) -> None:
    (tmp_path / ("a.warc.gz" if gz else "a.warc")).write_bytes(pack_warc(warc(lie=lie), gz=gz))
    documents, report = read(tmp_path)
    assert numbers(documents) == [0, 1, 3, 4]
    reason = {10**6: "truncated WARC record", 10**12: "document too large"}.get(lie, "WARC record with a wrong length")
    assert report.skipped == {reason: 1, "WARC record that is no page": 6}


@pytest.mark.parametrize("block", [1, 7, 100])
def test_marks_are_found_wherever_a_block_ends(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_BLOCK_BYTES", block)
    (tmp_path / "a.warc").write_bytes(pack_warc(warc(lie=3), gz=False))
    assert numbers(read(tmp_path)[0]) == [0, 1, 3, 4]


def test_pages_that_are_none(tmp_path: Path) -> None:
    russian = "Простой текст о городе и его реке."
    made = [
        b"garbage\r\n",
        response(PAGE.format("gone").encode(), status="404 Not Found"),
        response(b"\x89PNG", headers="Content-Type: image/png"),
        response(b"<html></html>"),
        response("ÀÁÂ".encode("utf-16-le"), headers="Content-Type: text/plain"),
        response(russian.encode("cp1251"), headers="Content-Type: text/plain; charset=windows-1251"),
        record("conversion", "text/plain", SENTENCE.format(1).encode()),
        response(b"%PDF-", headers="Content-Type: application/pdf"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(made))
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == [russian, SENTENCE.format(1)]
    assert report.skipped == {
        "HTTP status other than 200": 1,
        "WARC record that is no text": 1,
        "page without text": 1,
        "not UTF-8": 1,
        "damaged or not PDF": 1,
        "damaged WARC record": 1,
    }


DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>W</sitename><namespaces><namespace key="0" case="first-letter" />
    <namespace key="6" case="first-letter">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>
  </siteinfo>
  <page><title>Zamuna</title><ns>0</ns><id>7</id><revision><id>70</id><timestamp>2024-05-01T00:00:00Z</timestamp>
    <text xml:space="preserve">old</text></revision>
    <revision><id>71</id><timestamp>2025-05-01T00:00:00Z</timestamp>
    <text xml:space="preserve">{{Infobox|name=Zamuna}}
'''Zamuna''' liegt am [[Fluss|großen Fluss]] Shotasho.&lt;ref&gt;Quelle&lt;/ref&gt;
[[Datei:Karte.png|mini|Die [[Karte]]]]
== Geschichte ==
{| class="wikitable"
| Zelle
|}
Die Stadt ist alt.
[[Kategorie:Stadt]]</text></revision></page>
  <page><title>Z</title><ns>0</ns><id>8</id><redirect title="Zamuna" />
    <revision><text>#REDIRECT [[Zamuna]]</text></revision></page>
  <page><title>Diskussion:Z</title><ns>1</ns><id>9</id><revision><text>Hallo</text></revision></page>
  <page><title>Leer</title><ns>0</ns><id>10</id><revision><text /></revision></page>
  <page><title>Ende</title><ns>0</ns><id>11</id><revision><text>Letzte Seite.</text></revision></page>
</mediawiki>
"""


@pytest.mark.parametrize("kind", ["", "bz2", "gz"])
def test_wikimedia_dump(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("dewiki-pages-articles.xml" + (f".{kind}" if kind else ""))
    path.write_bytes(COMPRESSIONS[kind](DUMP.encode()) if kind else DUMP.encode())
    documents, report = read(tmp_path, "de")
    assert [(one.doc_id, one.collected_at) for one in documents] == [
        (f"ss/{path.name}#7", "2025-05-01T00:00:00Z"),
        (f"ss/{path.name}#11", None),
    ]
    text = documents[0].text
    assert text.startswith("Zamuna\n\nZamuna liegt am großen Fluss Shotasho.")
    assert text.endswith("Die Stadt ist alt.")
    assert not any(word in text for word in ("Infobox", "Quelle", "Karte", "Zelle", "Kategorie", "[[", "=="))
    assert report.skipped == {
        "older revision of a wiki page": 1,
        "wiki page that redirects": 1,
        "wiki page that is no article": 1,
        "wiki page without text": 1,
    }


def test_damaged_dump(tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text(DUMP[: DUMP.index("Letzte")])
    (tmp_path / "other.xml").write_text("<rss><page><ns>0</ns></page></rss>")
    entities = '<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    (tmp_path / "bomb.xml").write_text(entities + "<mediawiki><page><ns>0</ns><text>&b;</text></page></mediawiki>")
    documents, report = read(tmp_path, "de")
    assert [one.doc_id for one in documents] == ["ss/cut.xml#7"]
    assert report.skipped["truncated or damaged XML"] == 1
    assert report.skipped["XML that is no Wikimedia dump"] == 2


@pytest.mark.parametrize("opening_mark", ["[[", "{{", "<ref>", "{|", "'" * 5, "[[a|", "<div><span>"])
def test_markup_nested_without_end(opening_mark: str, tmp_path: Path) -> None:
    escaped = (opening_mark * 20_000).replace("<", "&lt;")
    page = f"<page><title>T</title><ns>0</ns><id>1</id><revision><text>{escaped}</text></revision></page>"
    (tmp_path / "a.xml").write_text(DUMP.replace("</mediawiki>", page + "</mediawiki>"))
    (tmp_path / "b.html").write_text(f"<html><body>{opening_mark * 20_000}")
    documents, report = read(tmp_path, "de")
    assert [one.doc_id for one in documents][:2] == ["ss/a.xml#7", "ss/a.xml#11"]
    assert report.found == 8


def test_html_and_pdf(tmp_path: Path) -> None:
    russian = "Библиотека города открывается утром и закрывается поздно вечером, каждый день недели."
    page = PAGE.format(russian).replace("<head>", '<head><meta charset="windows-1251">')
    (tmp_path / "a.html").write_bytes(page.encode("cp1251"))
    (tmp_path / "b.xhtml").write_text('<?xml version="1.0" encoding="UTF-8"?>\n' + PAGE.format(SENTENCE.format(2)))
    (tmp_path / "c.pdf").write_bytes(pdf_page("Text of a page"))
    (tmp_path / "d.pdf").write_bytes(pdf_page(""))
    (tmp_path / "e.pdf").write_bytes(pdf_page("cut")[:300])
    (tmp_path / "f.html").write_text("<p>" * 20_000)
    documents, report = read(tmp_path, "ru")
    assert russian in documents[0].text
    assert numbers(documents) == [2]
    assert documents[2].text.strip() == "Text of a page"
    assert report.skipped == {"PDF without text": 1, "damaged or not PDF": 1, "page without text": 1}


def _csv_of(texts: list[str]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerows([["text"], *([text] for text in texts)])
    return sink.getvalue().encode()


def _whole_files() -> dict[str, bytes]:
    texts = [f"text {number}\nof two lines" for number in range(30)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=10)
    lines = b"".join(json.dumps({"text": text, "id": number % 7}).encode() + b"\n" for number, text in enumerate(texts))
    plain = {
        "jsonl": lines,
        "csv": _csv_of(texts),
        "xml": DUMP.encode(),
        "warc": pack_warc(warc(3), gz=False),
        "pdf": pdf_page("x"),
        "html": PAGE.encode(),
    }
    return {**plain, "parquet": sink.getvalue()} | {
        f"{name}.{kind}": pack(plain[name]) for name in ("jsonl", "warc", "xml") for kind, pack in COMPRESSIONS.items()
    }


WHOLE = _whole_files()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    damages=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from(["cut", "drop", "add", "change"]), st.binary(min_size=1, max_size=40)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_files_are_read_or_counted(
    kind: str, damages: list[tuple[float, str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = WHOLE[kind]
    for place, how, extra in damages:
        at = int(place * len(content))
        content = {
            "cut": content[:at],
            "drop": content[:at] + content[at + len(extra) :],
            "add": content[:at] + extra + content[at:],
            "change": content[:at] + extra + content[at + len(extra) :],
        }[how]
    folder = tmp_path_factory.mktemp("damaged")
    (folder / f"a.{kind}").write_bytes(content)
    (folder / "b.txt").write_text("the next file")
    documents, report = read(folder)
    assert documents[-1].text == "the next file"
    assert all(document.text.encode() for document in documents)
    again, counted = read(folder)
    assert (again, counted) == (documents, report)
