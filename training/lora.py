"""LoRA by peft: adapters beside the matrices of a frozen base, and the full model that they make at the end.

A matrix W with adapters A [rank, inputs] and B [outputs, rank] acts as W + alpha / rank * B A. B is zero at first, so
that training begins with the base itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import save_file

from sovereign.profile_base import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "default"
"""peft's name of the only adapter."""


def _config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def add_adapters(model: PreTrainedModel, lora: Lora, *, seed: int, train_embeddings: bool) -> None:
    """Freeze `model` and put adapters into its matrices; A is random by `seed`.

    Args:
        train_embeddings: train the rows of input embedding and output matrix too, since some of them are new.
    """
    torch.manual_seed(seed)
    inject_adapter_in_model(_config(lora), model, adapter_name=_NAME)
    if train_embeddings:
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.requires_grad_(True)


def merge(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the model without adapters that does the same.

    Args:
        model: with adapters; only their places are taken from it, since ZeRO may have partitioned its weights.
        weights: all of its weights by name, whole.
    """
    merged = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            a, b = (weights[f"{name}.lora_{part}.{_NAME}.weight"].float() for part in "AB")
            matrix = merged[f"{name}.weight"]
            merged[f"{name}.weight"] = (matrix.float() + module.scaling[_NAME] * (b @ a)).to(matrix.dtype)
    return merged


def save_adapter(lora: Lora, parent: str, weights: Mapping[str, torch.Tensor], folder: Path) -> list[Path]:
    """Write the adapters as peft loads them onto their base (`PeftModel.from_pretrained`); returns the files.

    Args:
        parent: the base's digest.
        weights: those that were trained, whole, by their names in the model with adapters.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = _config(lora)
    config.base_model_name_or_path, config.inference_mode = parent, True
    config.save_pretrained(str(folder))
    named = {f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": value for name, value in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return sorted(folder.iterdir())
