"""The order in which training reads tokens: the same for every number of ranks, complete, and in bounded memory."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import TrainingError
from tests.training.shard_files import END, lengths, make_shards
from training.order import TokenStream
from training.shards import _HEADER, MAGIC, VERSION, Shard


@settings(max_examples=40, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**32 - 1), row=st.integers(1, 40))
def test_an_epoch_has_every_document_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int, row: int
) -> None:
    shards = make_shards(tmp_path_factory.mktemp("shards"), lengths)
    expected = Counter(tuple(text.tolist()) for shard in shards for text in np.split(shard.tokens, shard.ends)[:-1])
    stream = TokenStream(shards, seed)
    epochs = 3
    rows = -(-epochs * stream.num_tokens // row)
    tokens = np.concatenate([stream.read(index * row, row) for index in range(rows)])
    for epoch in range(epochs):
        seen = tokens[epoch * stream.num_tokens : (epoch + 1) * stream.num_tokens]
        ends = np.flatnonzero(seen == END)
        assert Counter(tuple(text.tolist()) for text in np.split(seen, ends + 1)[:-1]) == expected


@settings(max_examples=40, deadline=None)
@given(
    lengths=lengths,
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(0, 10**9),
    length=st.integers(1, 40),
    world_size=st.integers(1, 12),
    rows_each=st.integers(1, 4),
    data=st.data(),
)
def test_the_order_does_not_depend_on_the_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[list[int]],
    seed: int,
    step: int,
    length: int,
    world_size: int,
    rows_each: int,
    data: st.DataObject,
) -> None:
    shards = make_shards(tmp_path_factory.mktemp("shards"), lengths)
    num_rows = world_size * rows_each
    alone = TokenStream(shards, seed).rows(step, num_rows, length, rank=0, world_size=1)
    fewer = data.draw(st.sampled_from([size for size in range(1, num_rows + 1) if num_rows % size == 0]))
    for size in (world_size, fewer):
        ranks = (TokenStream(shards, seed).rows(step, num_rows, length, rank=r, world_size=size) for r in range(size))
        assert np.array_equal(np.concatenate(list(ranks)), alone)
    assert np.array_equal(alone.flatten(), TokenStream(shards, seed).read(step * num_rows * length, num_rows * length))


def test_rows_that_cannot_be_shared_out_are_an_error(tmp_path: Path) -> None:
    stream = TokenStream(make_shards(tmp_path, [[5]]), 0)
    with pytest.raises(TrainingError, match="got: 8 rows, 3 ranks"):
        stream.rows(0, 8, 4, rank=0, world_size=3)


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path, [[3] * 40])
    orders = [
        TokenStream([shard], seed).read(epoch * shard.num_tokens, shard.num_tokens).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_stays_from_version_to_version(tmp_path: Path) -> None:
    """An auditor computes a run's ledger years later: these very tokens, or old runs cannot be checked any more."""
    stream = TokenStream(make_shards(tmp_path, [[1, 2, 3] * 50, [4, 5] * 30, [2] * 20]), 7)
    digest = hashlib.sha256(stream.read(0, 3 * stream.num_tokens).astype("<u4").tobytes()).hexdigest()
    assert digest == "9fa4c5f0ec90a3650a906f6e482e0812f25fc59134ee7ea1c10d0dfc3aa0e64e"


@pytest.mark.parametrize("first", [0, 3, 9])
def test_reading_ahead_gives_the_same_rows(tmp_path: Path, first: int) -> None:
    stream = TokenStream(make_shards(tmp_path, [[7] * 30, [2] * 9]), 1)

    def length_of(step: int) -> int:
        return 16 if step < 5 else 8

    ahead = list(stream.read_ahead(range(first, 9), 64, length_of, rank=1, world_size=2))
    alone = [stream.rows(s, 64 // length_of(s), length_of(s), rank=1, world_size=2) for s in range(first, 9)]
    assert [rows.shape for rows in ahead] == [(2, 16)] * (5 - first) + [(4, 8)] * (9 - max(5, first))
    assert all(np.array_equal(one, other) for one, other in zip(ahead, alone, strict=True))


def test_an_error_of_the_reading_thread_reaches_the_loop(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[7] * 30, [2] * 9])
    batches = TokenStream(shards, 1).read_ahead(range(100), 64, lambda _step: 16, rank=0, world_size=1)
    next(batches)
    for shard in shards:
        shard.path.unlink()
    with pytest.raises(OSError, match="No such file"):
        list(batches)


def peak_memory(shards: list[Shard], steps: int) -> int:
    """Bytes that reading some steps takes at most; numpy's arrays are counted, mapped files are not."""
    _ = np.random.PCG64(0)  # numpy imports it at its first use, which is not counted
    tracemalloc.start()
    try:
        stream = TokenStream([Shard(shard.path) for shard in shards], 0)
        for rows in stream.read_ahead(range(steps), 8192, lambda _step: 1024, rank=0, world_size=1):
            assert rows.shape == (8, 1024)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """An epoch over six times the shards; a number kept for each document of them would more than double the peak."""
    sizes = [[20] * 4000] * 24
    small = peak_memory(make_shards(tmp_path / "few", sizes[:4]), 4 * 4000 * 21 // 8192)
    large = peak_memory(make_shards(tmp_path / "many", sizes), 24 * 4000 * 21 // 8192)
    assert large < 1.5 * small
    assert 1.5 * small < 24 * 4000 * 8, "the bound would see it"


def test_memory_does_not_grow_with_the_tokens(tmp_path: Path) -> None:
    """A shard of 2 GB (a hole in the file) takes what a shard of the same few documents takes."""
    small = make_shards(tmp_path / "small", [[100_000] * 10])
    large = make_shards(tmp_path / "large", [[1] * 10])
    stretch(large[0].path, 10**9)
    assert Shard(large[0].path).num_tokens == 10**9
    assert peak_memory(large, 100) < 1.5 * peak_memory(small, 100)


def stretch(path: Path, num_tokens: int) -> None:
    """Make the last document of a shard so long that it has `num_tokens` in all; the tokens are a hole in the file."""
    index, width = Shard(path)._read_index()
    data, ends = path.read_bytes(), Shard(path).ends.copy()
    begin = min(offset for offset, _ in index["arrays"].values())
    moved = (num_tokens - index["num_tokens"]) * width
    assert moved % 8 == 0, "arrays are aligned"
    ends[-1] = index["num_tokens"] = num_tokens
    arrays = data[begin : data.index(b'{"num_tokens"')].replace(Shard(path).ends.tobytes(), ends.tobytes())
    index["arrays"] = {name: [offset + moved, size] for name, (offset, size) in index["arrays"].items()}
    text = json.dumps(index).encode()
    place = begin + moved + len(arrays)
    path.unlink()
    with path.open("wb") as file:
        file.write(_HEADER.pack(MAGIC, VERSION, width, place, len(text), hashlib.sha256(text).digest()))
        file.seek(begin + moved)
        file.write(arrays + text)
