"""Forks of bases as GGUF: Llama, Qwen2 and Mistral, and the tokenizers that go with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sovereign.errors import TrainingError
from sovereign.exportable import Cutting, gguf_cutting
from tests.training.exported import (
    change_config,
    change_weights,
    make_cut_tokenizer,
    make_folder,
    run,
)
from training.base_tokenizer import load_tokenizer
from training.export_check import TOLERANCES, Reference, check
from training.export_source import in_pairs, llama3_factors, open_source

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama-tied": {"kind": "llama", "tied": True},
    "llama-scaled": {"kind": "llama", "tied": False, "rope_parameters": LLAMA3},
    "llama-each-head-its-own": {"kind": "llama", "tied": False, "num_key_value_heads": 4, "head_dim": None},
    "qwen2-tied": {"kind": "qwen2", "tied": True},
    "qwen2-untied": {"kind": "qwen2", "tied": False},
    "mistral-tied": {"kind": "mistral", "tied": True, "sliding_window": None},
    "mistral-untied": {"kind": "mistral", "tied": False, "sliding_window": 128},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_written_and_computed(family: str, tmp_path: Path) -> None:
    """What llama.cpp computes is compared, as in every export."""
    model = make_folder(tmp_path / "model", **FAMILIES[family])
    result = run(tmp_path / "model", tmp_path / "model.gguf")
    reader = GGUFReader(result.path)
    architecture = "qwen2" if family.startswith("qwen2") else "llama"
    head_dim = 32 if "head_dim" not in FAMILIES[family] and architecture == "llama" else 16
    expected = {
        "general.architecture": architecture,
        f"{architecture}.rope.dimension_count": head_dim,
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.head_count_kv": model.config.num_key_value_heads,
    }
    assert {key: reader.fields[key].contents() for key in expected} == expected
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    scaled = family == "llama-scaled"
    assert len(tensors) == len(load_file(tmp_path / "model" / "model.safetensors")) + scaled
    assert ("rope_freqs.weight" in tensors) == scaled
    if architecture == "qwen2":
        bias = model.get_parameter("model.layers.1.self_attn.k_proj.bias").detach().numpy()
        assert np.array_equal(tensors["blk.1.attn_k.bias"].data, bias)
    if result.comparison is not None:
        print(family, result.comparison)
        assert result.comparison.positions > 200
        assert result.comparison.divergence <= TOLERANCES["gguf-f16"].divergence


def test_rows_of_a_half_of_a_head_go_between_those_of_the_other() -> None:
    rows = np.arange(8, dtype=np.float32)
    assert in_pairs(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert in_pairs(rows.reshape(8, 1), 1).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_factors_of_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", **FAMILIES["llama-scaled"])
    config = AutoConfig.from_pretrained(tmp_path / "model", local_files_only=True)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10_000.0 ** -(np.arange(0, 32, 2) / 32)
    factors = llama3_factors(open_source(tmp_path / "model"))
    assert factors == pytest.approx(plain / scaled.numpy(), rel=1e-5)
    assert factors[0] == 1 and factors[-1] == 8 and any(1 < factor < 8 for factor in factors)


@pytest.mark.parametrize("pre", ["llama-bpe", "smaug-bpe", "gpt-2", "smollm"])
def test_a_tokenizer_is_written_and_cuts_the_same(pre: str, tmp_path: Path) -> None:
    """The comparison of the export cuts the probes, of which every piece is a token."""
    tokenizer = make_cut_tokenizer(pre)
    size = tokenizer.get_vocab_size()
    make_folder(tmp_path / "model", kind="llama", tied=True, tokenizer=tokenizer, vocab_size=size)
    fields = GGUFReader(run(tmp_path / "model", tmp_path / "model.gguf").path).fields
    begins = pre == "llama-bpe"
    expected = {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.add_bos_token": begins,
        "tokenizer.ggml.bos_token_id": 1 if begins else 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    assert {key: fields[key].contents() for key in expected} == expected
    # What was said of the base holds for the fork: the tokenizer goes through stage `tokenize` as it is.
    load_tokenizer(tmp_path / "model").save_pretrained(tmp_path / "fork")
    cuttings = [
        gguf_cutting(json.loads((tmp_path / name / "tokenizer.json").read_text())) for name in ("model", "fork")
    ]
    assert cuttings == [Cutting(pre, 1 if begins else None)] * 2


def unscaled(folder: Path) -> None:
    change_config(folder, rope_parameters=LLAMA3 | {"factor": 1.0})


def with_other_rows(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    rows = load_file(folder / "model.safetensors")[name]
    change_weights(folder, **{name: torch.from_numpy(in_pairs(rows.numpy(), 2))})


def without_bias(folder: Path) -> None:
    change_weights(folder, model__layers__0__self_attn__q_proj__bias=torch.zeros(64))


def windowed(folder: Path) -> None:
    change_config(folder, sliding_window=16)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama-scaled", unscaled),
        ("llama-tied", with_other_rows),
        ("qwen2-tied", without_bias),
        ("mistral-tied", windowed),
    ],
)
def test_what_a_wrong_map_would_give_is_found_out(family: str, change: Callable[[Path], None], tmp_path: Path) -> None:
    make_folder(tmp_path / "model", **FAMILIES[family])
    file = run(tmp_path / "model", tmp_path / "model.gguf").path
    change(tmp_path / "model")
    found = Reference(tmp_path / "model", PreTrainedTokenizerFast.from_pretrained(tmp_path / "model"))
    with pytest.raises(TrainingError, match="something else"):
        check(found.compare(file), "gguf-f16")


@pytest.mark.timeout(3600)
def test_another_token_before_a_text_is_found_out(tmp_path: Path) -> None:
    tokenizer = make_cut_tokenizer("llama-bpe")
    size = tokenizer.get_vocab_size()
    make_folder(tmp_path / "model", kind="llama", tied=True, tokenizer=tokenizer, vocab_size=size)
    file = run(tmp_path / "model", tmp_path / "model.gguf").path
    wrapped = PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    wrapped.backend_tokenizer.post_processor = make_cut_tokenizer("gpt-2").post_processor
    with pytest.raises(TrainingError, match=r"(?s)other tokens before a text.*got: \[1\].*expected: \[\]"):
        Reference(tmp_path / "model", wrapped).compare(file)


def test_a_window_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", kind="mistral", tied=True, sliding_window=64)
    with pytest.raises(TrainingError, match="lower max_position_embeddings to 64"):
        run(tmp_path / "model", tmp_path / "model.gguf")


def test_a_name_of_another_tensor_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", kind="qwen2", tied=True)
    change_weights(tmp_path / "model", model__layers__0__self_attn__q_proj__bias=None)
    with pytest.raises(TrainingError, match=r"missing .*model.layers.0.self_attn.q_proj.bias"):
        run(tmp_path / "model", tmp_path / "model.gguf")
