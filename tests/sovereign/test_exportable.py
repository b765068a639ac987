"""What llama.cpp computes as transformers does, told from config.json and tokenizer.json."""

from __future__ import annotations

from typing import Any

import pytest

from sovereign.errors import TrainingError
from sovereign.exportable import (
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    Cutting,
    gguf_architecture,
    gguf_cutting,
    head_dim,
    rope_parameters,
)

SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 8192}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def config(architecture: str, **changes: Any) -> dict[str, Any]:
    return SHAPE | {"architectures": [f"{architecture}ForCausalLM"]} | changes


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def template(*names: str) -> dict[str, Any]:
    """What puts `names` around a text, which is named A."""
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}}
        for name in names
    ]
    tokens = {name: {"id": name, "ids": [ord(name)], "tokens": [name]} for name in names if name != "A"}
    return {"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": tokens}


def tokenizer(pre: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """`changes` of the model, and of the whole where they name a part of it."""
    whole = {key: changes.pop(key) for key in ("normalizer", "post_processor") if key in changes}
    return {"model": {"type": "BPE", "vocab": {}, "merges": []} | changes, "pre_tokenizer": pre} | whole


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (config("Qwen3", model_type="qwen3", head_dim=128), "qwen3"),
        (config("Qwen2", use_sliding_window=False, sliding_window=4096), "qwen2"),
        (config("Llama", rope_theta=500_000.0, rope_scaling=LLAMA3), "llama"),
        (config("Llama", head_dim=32, rope_parameters={"rope_type": "llama3"}), "llama"),
        (config("Mistral", sliding_window=None), "llama"),
        (config("Mistral", sliding_window=8192), "llama"),
        (config("Mistral", max_position_embeddings=4096), "llama"),  # what transformers takes for the window
    ],
)
def test_known_models(found: dict[str, Any], expected: str) -> None:
    assert gguf_architecture(found) == expected


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (config("Gemma"), r"architectures: \['GemmaForCausalLM'\]"),
        (SHAPE, "architectures: None"),
        (config("Llama", model_type="granite"), "model_type: granite"),
        (config("Llama", attention_bias=True), "attention_bias: True"),
        (config("Llama", mlp_bias=True), "mlp_bias: True"),
        (config("Llama", hidden_act="gelu"), "hidden_act: gelu"),
        (config("Qwen2", use_sliding_window=True), "use_sliding_window: True"),
        (config("Qwen2", head_dim=32), "128 values of all heads"),
        (config("Qwen2", rope_scaling=LLAMA3), "rope_type default"),
        (config("Qwen3", rope_scaling={"type": "yarn", "factor": 4.0}), "yarn"),
        (config("Llama", rope_scaling={"type": "linear", "factor": 4.0}), "linear"),
        (config("Llama", partial_rotary_factor=0.5), "of all of a head"),
        (config("Mistral", sliding_window=4096), "lower max_position_embeddings to 4096"),
        (config("Mistral"), "sliding_window: 4096"),
    ],
)
def test_other_models_are_refused(found: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        gguf_architecture(found)


def test_both_ways_to_write_rotary_embeddings() -> None:
    old = config("Llama", rope_theta=500_000.0, rope_scaling=LLAMA3)
    new = config("Llama", rope_parameters={**LLAMA3, "rope_type": "llama3", "rope_theta": 500_000.0})
    expected = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
    for found in (rope_parameters(old), rope_parameters(new)):
        assert {key: found[key] for key in expected} == expected
    assert rope_parameters(config("Llama")) == {"rope_type": "default", "rope_theta": 10_000.0}
    assert [head_dim(config(name)) for name in ("Llama", "Qwen3")] == [16, 128]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (tokenizer(sequence(split(QWEN2_PATTERN), BYTES), normalizer={"type": "NFC"}), Cutting("qwen2", None)),
        (
            tokenizer(
                sequence(split(LLAMA3_PATTERN), BYTES),
                ignore_merges=True,
                post_processor={"type": "Sequence", "processors": [BYTES, template("b", "A")]},
            ),
            Cutting("llama-bpe", ord("b")),
        ),
        (tokenizer(sequence(split(LLAMA3_PATTERN), BYTES), post_processor=template("A")), Cutting("smaug-bpe", None)),
        (tokenizer(WORDS, post_processor=BYTES), Cutting("gpt-2", None)),
        (tokenizer(sequence({"type": "Digits", "individual_digits": True}, WORDS)), Cutting("smollm", None)),
    ],
)
def test_known_tokenizers(found: dict[str, Any], expected: Cutting) -> None:
    assert gguf_cutting(found) == expected


QWEN2 = sequence(split(QWEN2_PATTERN), BYTES)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (tokenizer(None, byte_fallback=True, normalizer={"type": "Sequence"}), "BPE, as SentencePiece makes it"),
        (tokenizer(None, type="Unigram"), "Unigram, as SentencePiece makes it"),
        (tokenizer(None), r"pre-tokenizer \(\)"),
        (tokenizer({"type": "Metaspace"}), "Metaspace"),
        (tokenizer(QWEN2, ignore_merges=True), "ignore_merges True"),
        (tokenizer(sequence(split(QWEN2_PATTERN, "Removed"), BYTES)), "Removed"),
        (tokenizer(sequence(split(r"\w+"), BYTES)), "pre-tokenizer"),
        (tokenizer(sequence(split(QWEN2_PATTERN), BYTES | {"add_prefix_space": True})), "pre-tokenizer"),
        (tokenizer(QWEN2, normalizer={"type": "NFKC"}), "normaliser NFKC"),
        (tokenizer(QWEN2, end_of_word_suffix="</w>"), "</w>"),
        (tokenizer(QWEN2, post_processor=template("A", "e")), "between other tokens"),
        (tokenizer(QWEN2, post_processor=template("b", "c", "A")), "between other tokens"),
        (tokenizer(QWEN2, post_processor={"type": "RobertaProcessing"}), "between other tokens"),
    ],
)
def test_other_tokenizers_are_refused(found: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        gguf_cutting(found)
