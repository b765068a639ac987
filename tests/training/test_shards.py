"""Token shards and the order in which training reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
                num_bytes=3 * len(ids),
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
    assert [[shard.owner_names[owner] for owner in shard.owners_of(number)] for number in range(3)] == [
        ["Archive"],
        ["Archive", "Office 1"],
        ["Archive"],
    ]
    assert shard.by_language(shard.num_bytes) == {"en": 9, "ar": 0, "zh": 150}


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OverflowError), ShardWriter(tmp_path / "a.bin", 1000, END) as writer:
        writer.add([70_000], doc_id="d", language="en", owners=[], num_bytes=1)
    assert list(tmp_path.iterdir()) == []


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


lengths = st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=4).filter(
    lambda shards: any(documents for documents in shards)
)


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**31), row=st.integers(1, 40))
def test_an_epoch_has_every_document_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, row: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards, number = [], 0
    expected: Counter[tuple[int, ...]] = Counter()
    for index, documents in enumerate(lengths):
        texts = [[number := number + 1] * length for length in documents]
        expected.update(tuple(ids) for ids in texts)
        shards.append(write(folder / f"{index}.bin", texts, vocab_size=70_000))
    stream = TokenStream(shards, seed)
    epochs = 3
    rows = -(-epochs * stream.num_tokens // row)
    tokens = np.concatenate([stream.read(index * row, row) for index in range(rows)])
    for epoch in range(epochs):
        seen = tokens[epoch * stream.num_tokens : (epoch + 1) * stream.num_tokens]
        ends = np.flatnonzero(seen == END)
        assert Counter(tuple(ids[:-1].tolist()) for ids in np.split(seen, ends + 1)[:-1]) == expected


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 500), seed=st.integers(0, 100))
def test_the_order_does_not_depend_on_the_ranks(tmp_path_factory: pytest.TempPathFactory, step: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards = [write(folder / f"{n}.bin", [[100 * n + d] * (d + 1) for d in range(20)]) for n in range(2)]
    alone = TokenStream(shards, seed).rows(step, 8, 16, rank=0, world_size=1)
    for world_size in (2, 4):
        parts = [
            TokenStream(shards, seed).rows(step, 8, 16, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        assert np.array_equal(np.concatenate(parts), alone)


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.bin", [[number] * 3 for number in range(1, 40)])
    orders = [
        TokenStream([shard], seed).read(epoch * shard.num_tokens, shard.num_tokens).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
