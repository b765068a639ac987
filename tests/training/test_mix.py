"""Phases with a mix: the weights are met, whatever the number of ranks, and the ledger counts what was read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import TrainingError
from sovereign.plan import RunPhase
from sovereign.profile_training import RateSpan
from tests.training.shard_files import LANGUAGES, lengths, make_shards
from training.ledger import consumed, documents
from training.mix import BLOCK_ROWS, MixedStream, make_stream
from training.order import TokenStream

LENGTH = 16
ROWS = 6
"""Of a step."""


def phase(num_steps: int, mix: dict[str, float] | None, length: int = LENGTH) -> RunPhase:
    return RunPhase(num_steps=num_steps, sequence_length=length, learning_rate=RateSpan(), mix=mix)


def texts(stream: TokenStream, step: int, length: int = LENGTH, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Rows of a step, tokens of end-of-text left out."""
    rows = stream.rows(step, ROWS * LENGTH // length, length, rank=rank, world_size=world_size)
    return [[int(token) for token in row if token] for row in rows]


MIXES = st.none() | st.dictionaries(st.sampled_from(LANGUAGES), st.floats(0.05, 10), min_size=1)


@settings(max_examples=40, deadline=None)
@given(
    documents_of=st.lists(st.lists(st.integers(1, 30), min_size=3, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    first=MIXES,
    second=MIXES,
    steps=st.integers(1, 40),
)
def test_the_ledger_counts_what_a_mix_read(
    tmp_path_factory: pytest.TempPathFactory,
    documents_of: list[list[int]],
    seed: int,
    first: dict[str, float] | None,
    second: dict[str, float] | None,
    steps: int,
) -> None:
    shards = make_shards(tmp_path_factory.mktemp("shards"), documents_of)
    phases = [phase(steps, first), phase(3, second, LENGTH // 2)]
    stream = MixedStream(shards, seed, phases, ROWS * LENGTH)
    batch = ROWS * LENGTH
    for step in range(steps + 3):
        length = LENGTH if step < steps else LENGTH // 2
        whole = texts(stream, step, length)
        assert whole == [row for rank in range(3) for row in texts(stream, step, length, rank, 3)]
        seen = Counter(f"d{token - 1}" for row in whole for token in row)
        listed = list(documents(stream, step * batch, batch))
        tokens = Counter({one.doc_id: 0 for one in listed})
        for one in listed:
            tokens[one.doc_id] += one.tokens
        assert sum(tokens.values()) == batch
        # A document's mark is a token of it, too: two rows' worth of marks is all that the texts do not tell.
        assert all(tokens[doc_id] >= count for doc_id, count in seen.items())
        for row in whole:
            assert len({(token - 1) % 3 for token in row}) <= 1  # one language
        one_step = consumed(stream, batch, from_step=step, up_to_step=step + 1)
        assert one_step.by_language == Counter(
            {name: sum(one.tokens for one in listed if one.language == name) for name in LANGUAGES}
        )
    single = [consumed(stream, batch, from_step=step, up_to_step=step + 1) for step in range(steps + 3)]
    whole_run = consumed(stream, batch, up_to_step=steps + 3)
    assert whole_run.by_language == sum((one.by_language for one in single), Counter())
    assert whole_run.by_owner == sum((one.by_owner for one in single), Counter())


def test_weights_are_met(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[9] * 6, [7] * 9])
    batch, mix = ROWS * LENGTH, {"en": 1.0, "ar": 2.0, "zh": 5.0}
    stream = make_stream(shards, 3, [phase(BLOCK_ROWS, mix), phase(BLOCK_ROWS, {"ar": 1.0})], batch)
    whole = consumed(stream, batch, up_to_step=BLOCK_ROWS).by_language  # so many blocks as a step has rows
    assert {name: count / batch for name, count in whole.items()} == {"en": 128, "ar": 256, "zh": 640}
    for start in (0, 7, 500):  # and are near them at any moment
        part = consumed(stream, batch, from_step=start, up_to_step=start + 20).by_language
        assert part["zh"] / part.total() == pytest.approx(5 / 8, abs=0.06)
    rest = consumed(stream, batch, from_step=BLOCK_ROWS, up_to_step=2 * BLOCK_ROWS).by_language
    assert +rest == {"ar": BLOCK_ROWS * batch}


@settings(max_examples=20, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 2**32 - 1))
def test_without_a_mix_the_stream_is_the_plain_one(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], seed: int
) -> None:
    shards = make_shards(tmp_path_factory.mktemp("shards"), lengths)
    stream = make_stream(shards, seed, [phase(4, None)], 96)
    assert type(stream) is TokenStream
    assert np.array_equal(stream.read(5, 100), TokenStream(shards, seed).read(5, 100))


@pytest.mark.parametrize(
    ("mix", "words"),
    [({"en": 1.0, "fr": 1.0}, ["phases[0].mix", "fr", "ar, en, zh"]), ({"en": 1.0, "ar": 1e-4}, ["too small", "ar"])],
)
def test_a_mix_that_cannot_be_met_is_refused(tmp_path: Path, mix: dict[str, float], words: list[str]) -> None:
    shards = make_shards(tmp_path, [[9] * 6])
    with pytest.raises(TrainingError) as caught:
        make_stream(shards, 0, [phase(4, mix)], 96)
    assert all(word in str(caught.value) for word in words)
