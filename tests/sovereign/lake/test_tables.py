"""Readers of tables, and the places of their records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.lake import records, tables
from tests.sovereign.lake.reading import read


@given(ids=st.lists(st.none() | st.integers(0, 12) | st.from_regex(r"[0-9]{1,2}(#[0-9]){0,2}|\u00b2", fullmatch=True)))
def test_every_place_is_its_own(ids: list[int | str | None], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ids")
    rows = [json.dumps({"text": "x"} | ({} if one is None else {"id": one})) for one in ids]
    (folder / "a.jsonl").write_text("\n".join(rows))
    assert len({one.doc_id for one in read(folder)[0]}) == len(ids)


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text,other\n1,"two\nlines, quoted ""well""",x\n2,plain,y\n\n2,same id,z\n')
    (tmp_path / "b.csv").write_bytes("text;owner\nПростой текст о городе;Архив\n".encode("cp1251"))
    (tmp_path / "c.tsv").write_text("text\tlanguage\nun texte\tfr\n")
    (tmp_path / "d.csv").write_text("text\nwide\n", encoding="utf-16")
    documents, report = read(tmp_path, "ru")
    assert [(one.doc_id, one.text) for one in documents] == [
        ("ss/a.csv#1", 'two\nlines, quoted "well"'),
        ("ss/a.csv#2", "plain"),
        ("ss/a.csv#2#3", "same id"),
        ("ss/b.csv#1", "Простой текст о городе"),
        ("ss/c.tsv#1", "un texte"),
        ("ss/d.csv#1", "wide"),
    ]
    assert (documents[3].owners, documents[4].language) == (("Архив",), "fr")
    assert not report.skipped


def test_csv_goes_on_after_a_damaged_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 1000)
    rows = [b"text,owner", b"one,A", b'"open,A', b"two,A", b'"x"y,A', b"three,A", b"four", b"y" * 3000, b"\xff\xfe,A"]
    (tmp_path / "a.csv").write_bytes(b"\n".join([*rows, b"five,A\n"]))
    documents, report = read(tmp_path)
    assert [one.text for one in documents] == ["one", "two", "three", "five"]
    assert report.skipped == {
        "damaged CSV": 2,
        "row of another length than the first": 1,
        "document too large": 1,
        "not UTF-8": 1,
    }


@pytest.mark.timeout(120)
def test_damaged_csv_takes_time_by_its_length(tmp_path: Path) -> None:
    """By its square it would be minutes: every row ends at the end of the file only."""
    (tmp_path / "a.csv").write_text("id,text\n" + 'a","b\n' * 40_000)
    documents, report = read(tmp_path)
    assert not documents
    assert report.skipped == {"damaged CSV": 40_000}


def test_csv_that_is_read_again_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(tables, "_MAX_AGAIN", 0)
    monkeypatch.setattr(tables, "_FREE_AGAIN", 0)
    rows = ["text", "one", *['"open', "lost", "y" * 300, "two"], *['"open', *["z" * 9] * 10, '"x"y'], "three\n"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    documents, report = read(tmp_path)
    assert [one.text for one in documents][:2] == ["one", "two"]
    assert report.found == len(rows) - 1
    assert report.skipped["document too large"] == 1


def test_mixed_encodings_in_one_file(tmp_path: Path) -> None:
    rows = ["text", "Первая строка текста о городе", "Вторая строка текста о реке"]
    (tmp_path / "a.csv").write_bytes(
        rows[0].encode() + b"\n" + rows[1].encode("cp1251") + b"\n" + rows[2].encode() + b"\n"
    )
    documents, report = read(tmp_path, "ru")
    assert [one.text for one in documents] == rows[1:]
    assert not report.skipped
    assert read(tmp_path, "en", encoding="cp1251")[0][0].text == rows[1]


def test_damaged_group_of_a_parquet_file_is_counted_row_by_row(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {number}" for number in range(400)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=100, compression="zstd")
    column: Any = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.data_page_offset
    content[start : column.dictionary_page_offset + column.total_compressed_size] = b"\xff" * (
        column.dictionary_page_offset + column.total_compressed_size - start
    )
    path.write_bytes(content)
    documents, report = read(tmp_path)
    assert report.found == 400
    assert report.skipped == {"damaged or not Parquet": 100}
    assert [one.doc_id for one in documents][100] == "ss/a.parquet#201"
