"""Files that are unusual and valid: they are read, or the reason says what is in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.lake.notices import HostFile
from sovereign.lake.optouts import OptOuts
from tests.sovereign.lake.reading import read


@pytest.mark.parametrize(
    ("table", "owner"),
    [
        ("sep=;\ntext;owner\nOne, two, three;Ann\n", "Ann"),
        ('"sep=,"\r\ntext,owner\r\n"One, two, three",Ann\r\n', "Ann"),
        ("\ufeffsep=\t\ntext\towner\nOne, two, three\tAnn\n", "Ann"),
        ("sep=|\ntext|owner\nOne, two, three|Ann\n", "Ann"),
        ("text|owner\nOne, two, three|Ann\n", "Ann"),
        ('"name, first, second, third";text;owner\nx;One, two, three;Ann\n', "Ann"),
        ('"a;b;c",text,owner\nx,"One, two, three",Ann\n', "Ann"),
        ('"name,\nfirst","text","owner"\nx,"One, two, three",Ann\n', "Ann"),
        ("\n\ntext; owner\nOne, two, three;Ann\n", "Ann"),
        ("text\nsep=;\n", "O"),
    ],
)
def test_l11_csv_of_spreadsheets(table: str, owner: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table.encode())
    documents, report = read(tmp_path)
    assert [(one.text, one.owners) for one in documents] == [
        ("sep=;" if table.startswith("text\n") else "One, two, three", (owner,))
    ]
    assert not report.skipped


def test_l12_a_table_without_text_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;body;Text\n1;x;y\n")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.csv").write_text(",".join(f"column{number}" for number in range(30)) + "\n")
    pq.write_table(pa.table({"content": ["x"], "meta": [{"a": 1, "b": 2}]}), tmp_path / "d.parquet")
    _, report = read(tmp_path)
    assert report.skipped == {"no column text": 4}
    assert report.examples == [
        "a.csv: no column text (columns id, body, Text)",
        "b.csv: no column text (no columns)",
        f"c.csv: no column text (columns {', '.join(f'column{number}' for number in range(20))}, …)",
        "d.parquet: no column text (columns content, meta)",
    ]


def test_l11_groups_of_no_rows_are_no_damage(tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for texts in ([], ["one"], [], ["two"], []):
            writer.write_table(pa.table({"text": texts}, schema=schema))
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).num_rows == 0
    documents, report = read(tmp_path)
    assert [(one.doc_id, one.text) for one in documents] == [("ss/a.parquet#1", "one"), ("ss/a.parquet#2", "two")]
    assert not report.skipped


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_l11_text_in_binary_columns(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["Füchse".encode(), b"\xff", b"plain"], kind),
        "owner": pa.array([b"Ann", b"Ann", None], kind),
        "id": pa.array([b"7", b"8", b"\xfe"], kind),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    documents, report = read(tmp_path)
    assert [(one.doc_id, one.text, one.owners) for one in documents] == [
        ("ss/a.parquet#7", "Füchse", ("Ann",)),
        ("ss/a.parquet#\\xfe", "plain", ("O",)),
    ]
    assert report.skipped == {"text is not valid Unicode": 1}


def test_l11_xml_of_other_kinds_is_refused_by_name(tmp_path: Path) -> None:
    head = '<?xml version="1.0"?>\n'
    (tmp_path / "a.xml").write_text(f'{head}<!DOCTYPE TEI SYSTEM "tei_all.dtd">\n<TEI><text>Lorem</text></TEI>')
    (tmp_path / "b.xml").write_text(f"{head}<!DOCTYPE TEI.2 [<!ENTITY auml 'ä'>]><TEI.2><text>M&auml;rz</text></TEI.2>")
    (tmp_path / "c.xml").write_text(f"{head}<TEI><text>Lorem</text></TEI>")
    _, report = read(tmp_path)
    assert report.skipped == {"XML that is no Wikimedia dump": 3}
    assert report.examples == [
        "a.xml: XML that is no Wikimedia dump (<TEI>)",
        "b.xml: XML that is no Wikimedia dump (<TEI.2>)",
        "c.xml: XML that is no Wikimedia dump (<TEI>)",
    ]


def test_l11_a_record_that_says_something_twice_is_counted(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "owner": "Ann", "owner": "Bob"}',
        '{"text": "a", "text": "b"}',
        '{"text": "a", "licence": "CC0-1.0", "license": "CC-BY-4.0"}',
        '{"text": "kept", "licence": "CC0-1.0", "license": "CC0-1.0", "x": 1, "x": 2, "of": {"url": "", "url": ""}}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.csv").write_text("text,owner,owner\na,Ann,Bob\n")
    columns = pa.Table.from_arrays([pa.array(["a"]), pa.array(["Ann"]), pa.array(["Bob"])], ["text", "owner", "owner"])
    pq.write_table(columns, tmp_path / "c.parquet")
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["kept"]
    assert report.skipped == {"owner stands twice": 3, "text stands twice": 1, "licence and license differ": 1}


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("robots.txt", "User-agent: *\nDisallow: /\n"),
        ("robots.txt", "# Für alle\r\nUser-agent: GPTBot\r\nDisallow: /größe\r\n"),
        ("robots.txt", "User-agent: *\nContent-Signal: ai-train=no\n"),
        ("ai.txt", "User-Agent: *\nDisallow: /\n"),
        ("tdmrep.json", json.dumps([{"location": "/", "tdm-reservation": 1}])),
        ("tdmrep.json", '[{"location": "/", "tdm-reservation": 1, "tdm-reservation": 0}]'),
        ("tdmrep.json", '[{"location": "/größe", "location": "/b", "tdm-reservation": 1}]'),
    ],
)
def test_l11_a_host_is_heard_in_any_unicode_encoding(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    with OptOuts(tmp_path / "opt-outs.sqlite", ["GPTBot"]) as opt_outs:
        opt_outs.add(HostFile("a.org", name, None, 200, text.encode(encoding)))
        assert opt_outs.reason("https://a.org/größe/1", None, None).startswith(f"opted out: {name}")
        opt_outs.add(HostFile("b.org", name, None, 200, text.replace("/", "/private").encode(encoding)))
        if "Content" not in text:
            assert opt_outs.reason("https://b.org/größe/1", None, None) == ""
