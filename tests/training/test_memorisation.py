"""Extraction on models that know texts by heart, and on ones that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from tests.training.tiny import make_model
from training.memorisation import SAMPLES, choose_length, draw, extraction, memorisation, wilson
from training.shards import Shard, ShardWriter

LENGTH = 64
VOCAB = 64


def make_shard(path: Path, documents: list[list[int]]) -> Shard:
    with ShardWriter(path, VOCAB, 0) as writer:
        for number, ids in enumerate(documents):
            writer.add(ids, doc_id=f"d{number}", language="en", owners=["o"], licence="CC0-1.0", num_bytes=len(ids))
    return Shard(path)


def random_documents(count: int, length: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[int(token) for token in generator.integers(1, VOCAB, length)] for _ in range(count)]


@pytest.fixture(scope="module")
def reciter() -> tuple[Qwen3ForCausalLM, list[list[int]]]:
    """A model that was taught three documents and nothing else."""
    model, documents = make_model(VOCAB), random_documents(3, LENGTH, 0)
    ids = torch.tensor(documents)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval(), documents


def test_what_was_learned_by_heart_is_extracted_and_nothing_else(
    reciter: tuple[Qwen3ForCausalLM, list[list[int]]], tmp_path: Path
) -> None:
    model, known = reciter
    shards = [make_shard(tmp_path / "a", known), make_shard(tmp_path / "b", random_documents(5, LENGTH, 1))]
    found = extraction(model, shards, 32, 0, seed=1)
    assert found == {"eligible": 8, "sampled": 8, "extracted": 3, "rate": 0.375, "low": 0.1368, "high": 0.6943}
    assert extraction(model, shards[1:], 32, 0, seed=1)["extracted"] == 0


def test_a_single_other_token_is_no_extraction(
    reciter: tuple[Qwen3ForCausalLM, list[list[int]]], tmp_path: Path
) -> None:
    model, known = reciter
    changed = [[*ids[:-1], ids[-1] % (VOCAB - 1) + 1] for ids in known]
    assert extraction(model, [make_shard(tmp_path / "a", changed)], 32, 0, seed=1)["extracted"] == 0


def test_without_a_document_long_enough_there_is_no_rate(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", random_documents(4, LENGTH - 1, 0))
    found = extraction(make_model(VOCAB), [shard], 32, 0, seed=0)
    assert found == {"eligible": 0, "sampled": 0, "extracted": 0, "rate": None, "low": None, "high": None}


def test_windows_are_parts_of_documents_drawn_without_repeats(tmp_path: Path) -> None:
    shards = []
    for number in range(3):  # every document has a token of its own
        documents = [[1 + number * 20 + place] * (50 + place * 5) for place in range(20)]
        shards.append(make_shard(tmp_path / str(number), documents))
    windows, eligible = draw(shards, LENGTH, seed=3)
    assert eligible == 3 * 17  # of 65 tokens and more
    assert windows.shape == (eligible, LENGTH)
    assert sorted(set(windows[:, 0])) == sorted(1 + n * 20 + place for n in range(3) for place in range(3, 20))
    assert (windows == windows[:, :1]).all()
    assert (draw(shards, LENGTH, seed=3)[0] == windows).all()
    assert (draw(shards, LENGTH, seed=4)[0] != windows).any()


def test_a_sample_is_bounded(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", [[7] * LENGTH] * (SAMPLES + 50))
    windows, eligible = draw([shard], LENGTH, seed=0)
    assert (len(windows), eligible) == (SAMPLES, SAMPLES + 50)


@pytest.mark.parametrize(
    ("tokens", "count", "length"),
    [(64, SAMPLES, 32), (64, SAMPLES - 1, 8), (63, SAMPLES, 16), (31, SAMPLES, 8), (8, SAMPLES, 8)],
)
def test_shorter_windows_are_taken_where_documents_are_short(
    tmp_path: Path, tokens: int, count: int, length: int
) -> None:
    shard = make_shard(tmp_path / "a", [[7] * tokens] * count)
    assert choose_length([shard]) == length


def test_training_and_held_out_documents_stand_side_by_side(
    reciter: tuple[Qwen3ForCausalLM, list[list[int]]], tmp_path: Path
) -> None:
    model, known = reciter
    known_shard = make_shard(tmp_path / "a", [ids for ids in known for _ in range(SAMPLES)])
    found = memorisation(model, [known_shard], [make_shard(tmp_path / "b", random_documents(5, LENGTH, 1))], 0, seed=1)
    assert (found["prompt_tokens"], found["continuation_tokens"]) == (32, 32)
    assert (found["trained"]["rate"], found["trained"]["sampled"]) == (1.0, SAMPLES)
    assert (found["heldout"]["rate"], found["heldout"]["sampled"]) == (0.0, 5)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [(0, 200, (0.0, 0.0188)), (200, 200, (0.9812, 1.0)), (81, 263, (0.2553, 0.3662))],
)
def test_wilson_interval(successes: int, trials: int, interval: tuple[float, float]) -> None:
    """The last is the example of Newcombe 1998, table I, method 3."""
    assert wilson(successes, trials) == interval
