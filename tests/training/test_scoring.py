"""Bits per byte against figures computed by hand, and a model that was made to know its answers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tests.training.tiny import make_knowing_model, make_model, make_question
from training import scoring

QUESTIONS = [
    make_question("en", "What is the capital of Auria?", "Velmora"),
    make_question("en", "Who wrote the law of rivers?", "Tessa Orn"),
    make_question("fr", "Quelle est la capitale ?", "Velmoré"),
    make_question("zh", "首都是哪里？", "维尔莫拉"),
]
TALKATIVE = make_question("en", "Where is the archive?", "Port Orn\nQ: and so on")


class Fixed(torch.nn.Module):
    """Gives every next token the probabilities of a table, whatever came before."""

    device = torch.device("cpu")

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        self.config = SimpleNamespace(vocab_size=len(probabilities))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_bits_are_minus_log2_of_the_probabilities() -> None:
    model = Fixed([0.5, 0.25, 0.125, 0.125])
    # Tokens 1, 2, 3 and the mark 0: 2 + 3 + 3 + 1 bits; a document of the mark only: 1 bit.
    assert scoring.model_bits(model, [[1, 2, 3], []], 0, 16) == pytest.approx(10.0)  # type: ignore[arg-type]


def test_unigram_adds_one_to_every_count() -> None:
    counts = np.array([1, 5, 0, 6])  # + 1: 2, 6, 1, 7 of 16
    expected = -math.log2(6 / 16) - math.log2(1 / 16) - math.log2(2 / 16)
    assert scoring.unigram_bits([[1, 2]], 0, counts) == pytest.approx(expected)


def test_uniform_is_the_size_of_the_vocabulary() -> None:
    assert scoring.uniform_bits([[1, 2, 3], [1]], 256) == 8 * (4 + 2)


def test_xz_of_repeated_text_is_small() -> None:
    once, often = scoring.xz_bits(["a national library"]), scoring.xz_bits(["a national library"] * 1000)
    assert once % 8 == 0
    assert once < often < 3 * once


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 8, 9, 30, 31])
def test_windows_predict_every_token_once(num_tokens: int) -> None:
    ids = list(range(1, num_tokens + 1))
    cut = list(scoring.windows(ids, 0, 8))
    assert [token for window in cut for token in window.ids[window.num_context :]] == [*ids, 0]
    assert all(len(window.ids) <= 9 for window in cut)
    assert all(window.num_context >= 5 for window in cut[1:])


def test_padding_and_batching_do_not_change_the_bits() -> None:
    model = make_model(50)
    documents = [[1, 2, 3], [4] * 40, [5, 6]]
    alone = sum(scoring.model_bits(model, [ids], 0, 16) for ids in documents)
    assert scoring.model_bits(model, documents, 0, 16) == pytest.approx(alone, rel=1e-5)


def test_a_model_that_knows_answers_and_compresses(tmp_path: Path) -> None:
    model, tokenizer = make_knowing_model(tmp_path, [*QUESTIONS, TALKATIVE])
    prompts = [question.prompt for question in [*QUESTIONS, TALKATIVE]]
    answers = scoring.answer_all(model, tokenizer, prompts, max_new_tokens=16)
    assert answers == [*(question.answer for question in QUESTIONS), "Port Orn"]
    ids = [tokenizer(question.document_text)["input_ids"] for question in QUESTIONS]
    untrained = scoring.model_bits(make_model(len(tokenizer)), ids, 0, 64)
    assert untrained == pytest.approx(scoring.uniform_bits(ids, len(tokenizer)), rel=0.1)
    assert scoring.model_bits(model, ids, 0, 64) < 0.2 * untrained


BIASED: list[dict[str, object]] = [
    {"repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 6},
    {"min_length": 20},
    {"suppress_tokens": list(range(40, 60))},
    {"begin_suppress_tokens": list(range(1, 40))},
    {"bad_words_ids": [[number] for number in range(10, 40)]},
    {"forced_bos_token_id": 7},
    {"forced_eos_token_id": 9},
    {"do_sample": True, "temperature": 5.0, "top_k": 50},
    {"num_beams": 3},
    {"eos_token_id": list(range(1, 30))},
    {"sequence_bias": {(5,): 50.0}},
    {"encoder_repetition_penalty": 3.0},
    {"renormalize_logits": True, "exponential_decay_length_penalty": (1, 9.0)},
    {"max_time": 0.0},
    {"stop_strings": ["a"]},
]


@pytest.mark.parametrize("settings", BIASED, ids=lambda settings: next(iter(settings)))
def test_t4_greedy_is_the_most_likely_token_whatever_the_base_says(settings: dict[str, object]) -> None:
    model = make_model(64)
    torch.nn.init.normal_(model.model.embed_tokens.weight, generator=torch.Generator().manual_seed(3))
    prompts = torch.randint(1, 64, (4, 5), generator=torch.Generator().manual_seed(4))
    expected = prompts
    for _ in range(8):
        with torch.no_grad():
            logits = model(input_ids=expected).logits[:, -1]
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
    model.generation_config = own = GenerationConfig(**settings)
    assert torch.equal(scoring.continue_greedily(model, prompts, 8, end=63), expected[:, 5:])
    assert model.generation_config is own
    said = scoring.ignored_settings(model)
    assert said == {
        name: value for name, value in own.to_diff_dict().items() if name in settings and name != "eos_token_id"
    }
