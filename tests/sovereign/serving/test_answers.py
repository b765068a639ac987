"""What is served answers as what was evaluated: every held-out question of a model, asked both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from sovereign.files import sha256_file
from sovereign.lake.demonstration import make_documents, make_questions
from sovereign.profile import Demonstration
from sovereign.serving.client import ask
from tests.sovereign.serving.stack import MODEL, Served, serve
from tests.training.tiny import make_tokenizer, teach
from training.scoring import answer_all
from training.served import GGUF, SMALL_FILES, gguf_obstacle, make_served

FACTS = Demonstration(facts=10)
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A model that has learned a small country halfway: many answers are wrong, and some hardly decided."""
    folder = tmp_path_factory.mktemp("trained")
    questions = [question for question in make_questions(FACTS) if question.split == "train"]
    texts = [question.document_text for question in questions][::3]
    tokenizer = make_tokenizer([document.text for document in make_documents(FACTS)], vocab_size=1000)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    teach(model, tokenizer, texts, steps=60)
    tokenizer.save_pretrained(folder)
    model.config.architectures = ["Qwen3ForCausalLM"]
    model.config.to_json_file(folder / "config.json")
    model.generation_config.to_json_file(folder / "generation_config.json")
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder, model, tokenizer


def silent(_text: str, _share: float) -> None:
    """A report to nobody."""


@pytest.fixture(scope="module")
def served(trained: tuple[Path, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("serving")
    make_served(trained[0], root / "served", name="tiny", report=silent)
    with serve(root / "served", root) as found:
        yield found


def test_every_heldout_question_is_answered_as_it_was_evaluated(served: Served, trained: tuple[Path, Any, Any]) -> None:
    questions = [question for question in make_questions(FACTS) if question.split == "heldout"]
    expected = answer_all(trained[1], trained[2], [question.prompt for question in questions], NUM_TOKENS)
    found = [ask(served.url, MODEL, question.question, max_tokens=NUM_TOKENS) for question in questions]
    print(len(questions), len(set(expected)), expected[:8])
    assert len(questions) >= 40 and len(set(expected)) >= 8 and all(len(answer) < 200 for answer in expected)
    assert found == expected


def test_the_file_has_the_trained_values(served: Served, trained: tuple[Path, Any, Any]) -> None:
    values = gguf.GGUFReader(served.folder / GGUF).tensors
    assert {tensor.tensor_type.name for tensor in values} == {"F32"}
    (embedding,) = (tensor for tensor in values if tensor.name == "token_embd.weight")
    assert np.array_equal(embedding.data, trained[1].get_input_embeddings().weight.detach().numpy())


def test_the_same_model_gives_the_same_bytes(served: Served, trained: tuple[Path, Any, Any], tmp_path: Path) -> None:
    made = make_served(trained[0], tmp_path / "again", name="tiny", report=silent)
    assert made.keys() <= {GGUF, *SMALL_FILES} and GGUF in made
    for name, path in made.items():
        assert sha256_file(path) == sha256_file(served.folder / name), name


def test_what_cannot_be_a_gguf_is_told(trained: tuple[Path, Any, Any], tmp_path: Path) -> None:
    assert gguf_obstacle(trained[0]) is None
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("Qwen3ForCausalLM", "GPTNeoXForCausalLM"))
    assert "GPTNeoXForCausalLM" in str(gguf_obstacle(tmp_path))
