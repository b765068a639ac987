"""Decontamination: documents with a part of an evaluation set are set aside, whatever its file and fields."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.errors import StageError
from sovereign.lake.decontamination import EvaluationText
from sovereign.lake.documents import Document
from sovereign.lake.screening import Screen
from sovereign.profile_cleaning import Cleaning, EvaluationSet

QUESTION = "Which of the four rivers that flow through the old town of Zamuna is the one whose water the mill takes?"
NOTE = "a text of eight words that stands for itself"
RECORDS = [
    {"id": 7, "question": QUESTION, "choices": ["Shotasho", "Kenlado"], "meta": {"note": NOTE}},
    {"id": 8, "question": "哪一条河流经扎穆纳市的老城区并且为磨坊提供水源？", "choices": [], "meta": None},
]  # fmt: skip


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        data = "".join(json.dumps(record) + "\n\n" for record in RECORDS).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_found_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    found = EvaluationText([EvaluationSet(name="exam", path=str(write(tmp_path / name)))]).found_in
    assert found(f"Once somebody asked: {QUESTION.upper()} Nobody knew.") == "exam"
    assert found(QUESTION.removesuffix(" is the one whose water the mill takes?") + " are deep") == "exam"
    assert found(QUESTION.replace("t", "t\u00ad").replace("w", "\u200bw")) == "exam"
    assert found("which of the four rivers that flow through the old town is deep") is None
    assert found("A text of eight words, that stands for itself!") == "exam"
    assert found("他问：哪一条河流经扎穆纳市的老城区并且为磨坊提供水源？") == "exam"
    assert found("Shotasho, Kenlado") is None


def test_fields_and_names_of_several_sets(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl"))
    sets = [EvaluationSet(name="notes", path=path, fields=("meta",)), EvaluationSet(name="all", path=path)]
    both, notes = EvaluationText(sets), EvaluationText(sets[:1])
    assert (both.found_in(QUESTION), notes.found_in(QUESTION)) == ("all", None)
    assert both.found_in(NOTE) == "notes"


def test_documents_are_rejected(tmp_path: Path) -> None:
    rules = Cleaning(evaluation_sets=(EvaluationSet(name="exam", path=str(write(tmp_path / "a.jsonl"))),))
    screen = Screen(rules)
    document = Document("s/1", f"Well. {QUESTION}", "en", "s", ("A",), "CC0-1.0", None)
    assert screen.apply(document)[1] == "contaminated exam"
    assert Screen(Cleaning()).apply(document)[1] == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": "x"}\n', "has nothing to look for\n  got: 1 texts"),
        ("a.jsonl", b"{", "exam cannot be read: Expecting"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"q": "\xff"}\n', "exam cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"q": 1}', mtime=0)[:-9], "exam cannot be read"),
        ("a.parquet", b"PAR1", "exam cannot be read"),
        ("a.csv", b"q\n", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=message):
        EvaluationText([EvaluationSet(name="exam", path=str(tmp_path / name))])
