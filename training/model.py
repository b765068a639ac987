"""The model: transformers' Qwen3ForCausalLM in the plan's shape, which vLLM, transformers and llama.cpp load as it is.

Weights begin as transformers makes them: normal with standard deviation 0.02 (GPT-2), norms at 1. Where the recipe says
so, what writes into the residual stream begins smaller by the square root of the number of such writes, 2 x layers, so
that the stream's variance does not grow with depth (Radford et al. 2019, GPT-2, section 2.3; so do Megatron-LM's runs,
Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053).
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from sovereign.plan import ModelShape, Recipe

END_OF_TEXT_ID = 0


INITIAL_DEVIATION = 0.02
_INTO_RESIDUAL = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def make_model(shape: ModelShape, seed: int, *, depth_scaled: bool = False) -> Qwen3ForCausalLM:
    """A fresh model with random weights that depend on the arguments only; float32."""
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
        initializer_range=INITIAL_DEVIATION,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    if depth_scaled:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(_INTO_RESIDUAL):
                    weight.mul_((2 * shape.num_layers) ** -0.5)
    model.generation_config = GenerationConfig(
        eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID, do_sample=False
    )
    return model


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices, none on norms and embeddings (a tied output matrix is one).

    Frozen weights are in none.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        is_matrix = parameter.dim() >= 2 and id(parameter) not in embeddings
        (decayed if is_matrix else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def why_no_compiler() -> str | None:
    """What torch.compile lacks on this machine for CPU code, or None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler})"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"no {header} (package python3-dev)"


def save_model(
    model: PreTrainedModel, weights: Mapping[str, torch.Tensor], tokenizer_files: Sequence[Path], folder: Path
) -> list[Path]:
    """Write a folder that transformers loads: weights, configuration, tokenizer; returns the files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    disable_progress_bar()
    model.save_pretrained(folder, state_dict=dict(weights))
    for path in tokenizer_files:
        shutil.copyfile(path, folder / path.name)
    return sorted(folder.iterdir())
