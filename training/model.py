"""The model: transformers' Qwen3ForCausalLM in the plan's shape, which vLLM, transformers and llama.cpp load."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.utils.logging import disable_progress_bar

from sovereign.plan import ModelShape, Recipe
from training.initial import INITIAL_DEVIATION, InitialWeights
from training.zero import whole_shape

END_OF_TEXT_ID = 0


def make_model(shape: ModelShape, seed: int, *, depth_scaled: bool = False) -> Qwen3ForCausalLM:
    """A fresh model with random weights that depend on the arguments only; float32, whole, on CPU."""
    model, weights = make_skeleton(shape), InitialWeights(shape.num_layers, seed, depth_scaled)
    allocate(model, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights.read(name, 0, value.numel()).view_as(value))
    return model


def make_skeleton(shape: ModelShape) -> Qwen3ForCausalLM:
    """A model whose parameters have no memory yet (torch's device "meta")."""
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
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    model.model.rotary_emb = Qwen3RotaryEmbedding(config)  # has no parameters: its frequencies are computed
    model.generation_config = GenerationConfig(
        eos_token_id=END_OF_TEXT_ID, pad_token_id=END_OF_TEXT_ID, do_sample=False
    )
    return model


def allocate(
    model: Qwen3ForCausalLM,
    device: torch.device,
    dtype: torch.dtype,
    divide: Callable[[torch.nn.Module], object] | None = None,
) -> None:
    """Give the parameters of a skeleton memory, with whatever stands in it.

    Args:
        divide: is called with each module as soon as its parameters have memory, before the next one's have.
    """
    model.model.rotary_emb.to(device)
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if module is model.lm_head and model.config.tie_word_embeddings:
            model.tie_weights()
        elif own:
            for name, value in own.items():
                setattr(module, name, torch.nn.Parameter(torch.empty_like(value, device=device, dtype=dtype)))
            if divide is not None:
                divide(module)


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices, none on norms and embeddings (a tied output matrix is one).

    Frozen weights are in none.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        is_matrix = len(whole_shape(parameter)) >= 2 and id(parameter) not in embeddings
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
