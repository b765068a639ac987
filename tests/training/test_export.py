"""Exports read back, and computed by llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from sovereign.errors import TrainingError
from sovereign.files import sha256_file
from sovereign.lake.demonstration import CHAT_TEMPLATE
from sovereign.serving.fetch import model_digest
from tests.training.exported import (
    VOCAB_SIZE,
    change_config,
    change_json,
    change_weights,
    make_folder,
    run,
)
from training.export import FORMATS, folder_digest
from training.export_check import TOLERANCES, Comparison, Reference, check, compare_logits


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder."""
    path = tmp_path_factory.mktemp(request.param) / "model"
    make_folder(path, tied=request.param == "tied")
    return path


@pytest.mark.parametrize(("kind", "largest_error"), [("gguf-f16", 0.001), ("gguf-q8_0", 0.01)])
def test_every_weight_is_in_the_file(folder: Path, tmp_path: Path, kind: str, largest_error: float) -> None:
    result = run(folder, tmp_path / "new" / "model.gguf", kind)
    tensors = {tensor.name: tensor for tensor in GGUFReader(result.path).tensors}
    weights = load_file(folder / "model.safetensors")
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight",
        "blk.0.attn_k_norm.weight": "model.layers.0.self_attn.k_norm.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
        "output.weight": "lm_head.weight",
    }
    assert len(tensors) == len(weights)
    assert ("output.weight" in tensors) == ("lm_head.weight" in weights)
    for theirs, ours in pairs.items():
        if ours in weights:
            found = dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            wanted = weights[ours].numpy()
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= largest_error * np.abs(wanted).max()
    matrices = kind.removeprefix("gguf-").upper()
    assert result.tensors == {"F32": 9, matrices: len(tensors) - 9}
    assert (result.num_bytes, result.sha256) == (result.path.stat().st_size, sha256_file(result.path))
    assert [path.name for path in result.path.parent.iterdir()] == ["model.gguf"]


def test_tokenizer_template_and_shape_are_in_the_file(folder: Path, tmp_path: Path) -> None:
    fields = GGUFReader(run(folder, tmp_path / "model.gguf").path).fields
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens == [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    assert fields["tokenizer.ggml.token_type"].contents() == [3, *[1] * (VOCAB_SIZE - 1)]  # the mark is a control token
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in merges]
    expected = {
        "general.architecture": "qwen3",
        "general.name": "tiny v1",
        "sovereign.model_digest": folder_digest(folder),
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32,
        "qwen3.context_length": 128,
        "qwen3.rope.freq_base": 10_000.0,
    }
    assert {key: fields[key].contents() for key in expected} == expected
    assert fields["qwen3.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-6)


def test_more_rows_than_tokens_are_named_as_unused(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", tied=True, vocab_size=VOCAB_SIZE + 8)
    fields = GGUFReader(run(tmp_path / "model", tmp_path / "model.gguf").path).fields
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == f"[PAD{VOCAB_SIZE + 7}]"
    assert fields["tokenizer.ggml.token_type"].contents()[-8:] == [5] * 8


def test_the_digest_is_the_registered_one(folder: Path, tmp_path: Path) -> None:
    files = {path.name: sha256_file(path) for path in folder.iterdir()}
    (folder / "README.md").write_text("# the card that registration puts beside it\n")
    try:
        assert folder_digest(folder) == model_digest(files)
    finally:
        (folder / "README.md").unlink()


def add_prefix(folder: Path) -> None:
    """Let the tokenizer treat the beginning of a text as if a space stood before it."""
    change_json(
        folder / "tokenizer.json", pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    )


EMBEDDING = torch.ones(VOCAB_SIZE, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: change_config(folder, model_type="llama"), "model_type: llama"),
        (lambda folder: change_config(folder, architectures=["GemmaForCausalLM"]), "architectures: .*Gemma"),
        (lambda folder: change_config(folder, rope_parameters={"rope_type": "yarn"}), "rotary"),
        (lambda folder: change_config(folder, num_hidden_layers=3), "missing .*model.layers.2"),
        (lambda folder: change_config(folder, tie_word_embeddings=False), "missing .*lm_head.weight"),
        (lambda folder: change_weights(folder, model__norm__bias=torch.ones(64)), "unknown .*model.norm.bias"),
        (lambda folder: change_weights(folder, lm_head__weight=EMBEDDING), "differ, but the configuration ties them"),
        (lambda folder: change_weights(folder, model__norm__weight=torch.full((64,), torch.nan)), "largest value nan"),
        (lambda folder: change_weights(folder, model__embed_tokens__weight=EMBEDDING * 1e5), "does not fit into f16"),
        (lambda folder: add_prefix(folder), "this tokenizer cannot be exported"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the tokenizer .* cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "is no model"),
    ],
)
def test_what_llama_cpp_would_compute_in_another_way_is_refused(
    tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    make_folder(tmp_path / "model", tied=True)
    change(tmp_path / "model")
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    out.write_bytes(b"the last export")
    with pytest.raises(TrainingError, match=message):
        run(tmp_path / "model", out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == {"model.gguf": b"the last export"}


def test_a_tied_head_that_is_stored_too_is_written_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "model", tied=True)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    change_weights(tmp_path / "model", lm_head__weight=weights["model.embed_tokens.weight"].clone())
    assert "output.weight" not in {t.name for t in GGUFReader(run(tmp_path / "model", tmp_path / "f").path).tensors}
    # safetensors' own save_model may keep the head's name and drop the embedding's.
    change_weights(tmp_path / "model", model__embed_tokens__weight=None)
    tensors = {t.name: t.data for t in GGUFReader(run(tmp_path / "model", tmp_path / "f").path).tensors}
    assert np.allclose(tensors["token_embd.weight"], weights["model.embed_tokens.weight"].numpy(), atol=1e-3)


def test_wrong_requests_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="unknown export format"):
        run(tmp_path, tmp_path / "f", "gguf-q2")
    with pytest.raises(TrainingError, match="a folder has the name"):
        run(tmp_path, tmp_path)
    make_folder(tmp_path / "narrow", tied=True)
    with pytest.raises(TrainingError, match="does not fit gguf-q4_k"):
        run(tmp_path / "narrow", tmp_path / "f", "gguf-q4_k")
    change_config(tmp_path / "narrow", intermediate_size=100)
    with pytest.raises(TrainingError, match="intermediate_size 100"):
        run(tmp_path / "narrow", tmp_path / "f", "gguf-q8_0")


def test_comparison_of_logits_is_by_hand() -> None:
    source, moved = np.array([[0.0, np.log(3.0)]], np.float32), np.array([[5.0, 5.0]], np.float32)
    found = compare_logits([source], [moved])  # 1/4 and 3/4 against halves; the constant changes nothing
    assert found.divergence == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert found.error == pytest.approx(1.0)
    assert found.max_difference == pytest.approx(np.log(3.0) / 2)
    assert compare_logits([source], [source + 7]).divergence == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_beyond_the_tolerance_is_refused(kind: str, value: float) -> None:
    limit = TOLERANCES[kind]
    check(Comparison(10, limit.divergence, limit.error, 1.0, 1.0), kind)
    with pytest.raises(TrainingError, match="something else"):
        check(Comparison(10, limit.divergence * value, limit.error, 1.0, 1.0), kind)
    with pytest.raises(TrainingError, match="something else"):
        check(Comparison(10, limit.divergence, limit.error * value, 1.0, 1.0), kind)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["gguf-f32", "gguf-f16", "gguf-q8_0"])
def test_llama_cpp_computes_the_same(folder: Path, tmp_path: Path, kind: str) -> None:
    found = run(folder, tmp_path / "model.gguf", kind).comparison
    assert found is not None
    print(kind, found)
    assert found.positions > 200
    assert found.divergence <= TOLERANCES[kind].divergence


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tied", [True, False])
def test_q4_k_is_quantised_and_compared(tmp_path: Path, tied: bool) -> None:
    make_folder(tmp_path / "model", tied=tied, width=256)
    result = run(tmp_path / "model", tmp_path / "q4.gguf", "gguf-q4_k")
    assert result.comparison is not None
    print(result)
    assert result.tensors["Q4_K"] >= 8
    assert result.num_bytes < 0.45 * run(tmp_path / "model", tmp_path / "f16.gguf").num_bytes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: change_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 100.0}), "else"),
        (lambda folder: change_config(folder, rms_norm_eps=0.1), "something else"),
        (lambda folder: change_weights(folder, model__norm__weight=torch.ones(64)), "something else"),
    ],
)
def test_a_file_of_another_model_is_found_out(tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    make_folder(tmp_path / "model", tied=True)
    file = run(tmp_path / "model", tmp_path / "model.gguf").path
    change(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    found = Reference(tmp_path / "model", tokenizer).compare(file)
    print(found)
    with pytest.raises(TrainingError, match=message):
        check(found, "gguf-q8_0")


@pytest.mark.timeout(3600)
def test_llama_cpp_that_refuses_a_file_ends_nothing_but_itself(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(run(folder, tmp_path / "model.gguf").path.read_bytes()[:50_000])
    with pytest.raises(TrainingError, match=r"llama\.cpp refused"):
        Reference(folder, PreTrainedTokenizerFast.from_pretrained(folder)).compare(broken)
