"""Parquet files of documents: faithful, in bounded pieces, never half-written."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sovereign.lake import documents as module
from sovereign.lake.documents import SCHEMA, Document, DocumentWriter, count_documents, read_documents


def document(number: int, text: str = "text") -> Document:
    return Document(f"s/{number}", text, "en", "s", ("A", "B"), "CC0-1.0", None, transforms=("nfc",))


def test_documents_round_trip(tmp_path: Path) -> None:
    made = [document(number, f"Text {number} é 文\n") for number in range(10)]
    with DocumentWriter(tmp_path, "train") as writer:
        for one in made:
            writer.add(one)
    assert [path.name for path in writer.files] == ["train-00000.parquet"]
    assert list(read_documents(writer.files)) == made
    assert count_documents(writer.files) == 10
    assert pq.read_schema(writer.files[0]).equals(SCHEMA)


def test_no_document_is_a_file_too(tmp_path: Path) -> None:
    with DocumentWriter(tmp_path, "heldout", extra=["reason"]) as writer:
        pass
    assert list(read_documents(writer.files)) == []
    assert pq.read_schema(writer.files[0]).names == [*SCHEMA.names, "reason"]


def test_many_documents_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP_ROWS", 3)
    monkeypatch.setattr(module, "_FILE_CHARS", 30)
    with DocumentWriter(tmp_path, "train") as writer:
        for number in range(25):
            writer.add(document(number))
    assert [path.name for path in writer.files] == [f"train-{number:05}.parquet" for number in range(4)]
    assert max(pq.read_metadata(path).row_group(0).num_rows for path in writer.files) == 3
    assert [one.doc_id for one in read_documents(writer.files)] == [f"s/{number}" for number in range(25)]


def test_same_documents_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        with DocumentWriter(tmp_path / folder, "train") as writer:
            for number in range(5000):
                writer.add(document(number))
    names = [[path.read_bytes() for path in sorted((tmp_path / folder).iterdir())] for folder in ("one", "two")]
    assert names[0] == names[1]


def test_interrupted_writer_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), DocumentWriter(tmp_path, "train") as writer:
        writer.add(document(1))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
