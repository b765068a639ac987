"""Token shards: what was written is read, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import pytest

from sovereign.errors import TrainingError
from training.order import TokenStream
from training.shards import Shard, ShardWriter

END = 0


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000) -> Shard:
    """A shard with these documents, languages and owners by turns."""
    with ShardWriter(path, vocab_size, END) as writer:
        for number, ids in enumerate(documents):
            writer.add(
                ids,
                doc_id=f"doc/{number}é",
                language=("en", "ar", "zh")[number % 3],
                owners=["Archive", f"Office {number % 2}"][: 1 + number % 2],
                licence=("CC0-1.0", "CC-BY-4.0")[number % 2],
                num_bytes=3 * len(ids),
                quality=(0.25, None)[number % 2],
            )
    return Shard(path)


@pytest.mark.parametrize("vocab_size", [1000, 100_000])
def test_what_was_written_is_read(tmp_path: Path, vocab_size: int) -> None:
    documents = [[5, 6, vocab_size - 1], [], [7] * 50]
    shard = write(tmp_path / "a.bin", documents, vocab_size)
    assert (shard.num_documents, shard.num_tokens) == (3, 53 + 3)
    assert shard.tokens.dtype.itemsize == (2 if vocab_size <= 65_536 else 4)
    starts = [0, *shard.ends[:-1]]
    assert [shard.tokens[a:b].tolist() for a, b in zip(starts, shard.ends, strict=True)] == [
        [*ids, END] for ids in documents
    ]
    assert [shard.document_id(number) for number in range(3)] == ["doc/0é", "doc/1é", "doc/2é"]
    assert [shard.language_names[number] for number in shard.languages] == ["en", "ar", "zh"]
    assert shard.document_ids([2, 0]) == ["doc/2é", "doc/0é"]
    assert [[shard.owner_names[owner] for owner in own] for own in shard.owners_of(range(3))] == [
        ["Archive"],
        ["Archive", "Office 1"],
        ["Archive"],
    ]
    assert (shard.lengths.tolist(), shard.owner_counts.tolist()) == ([4, 1, 51], [1, 2, 1])
    assert [shard.licence_names[licence] for licence in shard.licences] == ["CC0-1.0", "CC-BY-4.0", "CC0-1.0"]
    assert shard.qualities.tolist() == pytest.approx([0.25, math.nan, 0.25], nan_ok=True)
    assert shard.by_language(shard.num_bytes) == {"en": 9, "ar": 0, "zh": 150}


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OverflowError), ShardWriter(tmp_path / "a.bin", 1000, END) as writer:
        writer.add([70_000], doc_id="d", language="en", owners=["Archive"], licence="CC0-1.0", num_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_document_without_an_owner_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingError, match="document d has no owner"),
        ShardWriter(tmp_path / "a.bin", 1000, END) as writer,
    ):
        writer.add([1], doc_id="d", language="en", owners=[], licence="CC0-1.0", num_bytes=1)


def test_a_shard_of_before_can_be_read_but_for_licences_and_quality(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.bin", [[5, 6], [7]])
    data = shard.path.read_bytes()
    magic, version, width, offset, _, _ = struct.unpack("<8sIIQQ32s", data[:64])
    index = json.loads(data[offset:])
    del index["licences"], index["arrays"]["licences"], index["arrays"]["qualities"]
    text = json.dumps(index).encode()
    header = struct.pack("<8sIIQQ32s", magic, version, width, offset, len(text), hashlib.sha256(text).digest())
    shard.path.write_bytes(header + data[64:offset] + text)
    older = Shard(shard.path)
    assert older.lengths.tolist() == [3, 2] and older.document_ids([1]) == ["doc/1é"]
    for read in (lambda: older.licences, lambda: older.qualities):
        with pytest.raises(TrainingError, match="a version of the kit before this one made it"):
            read()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"NOTATOKN" + data[8:], "no header"),
        (lambda data: data[:40], "no header"),
        (lambda data: data[:-1], "index"),
        (lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "index"),
        (lambda data: data[:8] + b"\x09" + data[9:], "another format"),
    ],
)
def test_a_damaged_shard_is_an_error(tmp_path: Path, damage: object, message: str) -> None:
    assert callable(damage)
    shard = write(tmp_path / "a.bin", [[1, 2, 3]])
    shard.path.write_bytes(damage(shard.path.read_bytes()))
    with pytest.raises(TrainingError, match=message):
        Shard(shard.path)


def test_no_tokens_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="empty"):
        TokenStream([write(tmp_path / "a.bin", [])], 0)
