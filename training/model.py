"""The model: transformers' Qwen3ForCausalLM in the plan's shape, which vLLM, transformers and llama.cpp load as it is.

Suffixes: B sequences, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from sovereign.plan import ModelShape, Recipe

END_OF_TEXT_ID = 0


def make_model(shape: ModelShape, seed: int) -> Qwen3ForCausalLM:
    """A fresh model with random weights that depend on the seed only; float32."""
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.sequence_length,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=None,  # a padding id would be a row of the embedding that never learns
        attention_dropout=0.0,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID, do_sample=False
    )
    return model


class _Head(torch.nn.Module):
    """Output matrix and cross-entropy."""

    def forward(self, hidden_BTD: torch.Tensor, weight_VD: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
        logits_NV = functional.linear(hidden_BTD[:, :-1].flatten(0, 1), weight_VD)  # noqa: N806
        return functional.cross_entropy(logits_NV.float(), tokens_BT[:, 1:].flatten())


class LanguageModelLoss(torch.nn.Module):
    """Mean cross-entropy of the next token, nats."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.head = _Head()

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Loss of predicting tokens_BT[:, 1:]; the last position predicts nothing, so its logits are never made."""
        hidden_BTD = self.model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state  # noqa: N806
        loss: torch.Tensor = self.head(hidden_BTD, self.model.lm_head.weight, tokens_BT)
        return loss

    def compile_parts(self) -> None:
        """Compile one decoder layer, which all layers share, and the head: much quicker than to compile the whole."""
        for part in (*self.model.model.layers, self.head):
            part.compile(dynamic=False)


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices, none on norms and embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.dim() >= 2 and id(parameter) not in embeddings
        (decayed if is_matrix else others).append(parameter)
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def why_no_compiler() -> str | None:
    """What torch.compile lacks on this machine for CPU code, or None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"no {header} (package python3-dev)"


def save_model(
    model: Qwen3ForCausalLM, weights: Mapping[str, torch.Tensor], tokenizer_files: Sequence[Path], folder: Path
) -> list[Path]:
    """Write a folder that transformers loads: weights, configuration, tokenizer; returns the files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    disable_progress_bar()
    model.save_pretrained(folder, state_dict=dict(weights))
    for path in tokenizer_files:
        shutil.copyfile(path, folder / path.name)
    return sorted(folder.iterdir())
