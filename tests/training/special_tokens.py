"""Bases whose control tokens are added tokens, numbered as Qwen2, Llama 3 and padded vocabularies have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from tests.training.tiny import make_tokenizer

END, TURN, TURN_END, WORD = "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<think>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
TEXTS = ["the river runs to the sea", "la loi des rivières", "the law of the rivers"] * 3
GAP = 20


def save_base(
    folder: Path,
    *,
    layout: str = "after",
    kind: str = "qwen2",
    tokenizer_class: str = "PreTrainedTokenizerFast",
    tied: bool = True,
    chat: bool = False,
    generation: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Save a random model with its tokenizer; gives back the ids of its control tokens, as its tokenizer.json has them.

    Args:
        layout: `after` the vocabulary, after a `gap`, `within` the vocabulary, or `flags` that eat spaces.
        chat: with a chat template of its own.
        generation: further settings of generation_config.json.
    """
    fast = _make_tokenizer(layout)
    fast.chat_template = TEMPLATE if chat else None
    fast.save_pretrained(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    for token in document["added_tokens"]:
        if layout == "gap" and token["content"] not in document["model"]["vocab"]:
            token["id"] += GAP
    path.write_text(json.dumps(document | {"truncation": _TRUNCATION, "padding": None}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": tokenizer_class}))
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    _save_model(folder, kind, tied, ids[END], {"eos_token_id": ids[END]} | (generation or {}))
    return ids


_TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
"""Some bases were saved with it; it must not reach documents."""


def _make_tokenizer(layout: str) -> PreTrainedTokenizerFast:
    backend = make_tokenizer(TEXTS).backend_tokenizer
    if layout == "within":  # the trainer's own mark, in the vocabulary
        document = json.loads(backend.to_str().replace("<|endoftext|>", END))
        backend = type(backend).from_str(json.dumps(document))
    eats = layout == "flags"
    tokens = [
        AddedToken(text, special=True, normalized=False, lstrip=eats, rstrip=eats) for text in (END, TURN, TURN_END)
    ]
    backend.add_special_tokens(tokens)
    backend.add_tokens([AddedToken(WORD, special=False, normalized=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def _save_model(folder: Path, kind: str, tied: bool, end: int, generation: dict[str, Any]) -> None:
    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "eos_token_id": end,
        "bos_token_id": end,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    model.generation_config = GenerationConfig(do_sample=False)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
