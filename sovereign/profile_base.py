"""The part of the profile that names a base: the model that training continues from instead of random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sovereign.section import Section

Architecture = Literal["Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"]
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEARS: tuple[Linear, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KnownBase(Section):
    """What a base is: found by the commands in its folder, and kept in the site."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the canonical JSON of its files' names and SHA-256 digests."""
    architecture: Architecture
    """Class of transformers."""
    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width of the gated feed-forward part."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Rows of its embedding; some have more than the tokenizer has tokens."""
    tokenizer_size: int
    """One more than the highest token of its tokenizer."""
    max_sequence_length: int
    """Positions that it was made for."""
    tied: bool
    """Input and output embedding are one matrix."""
    gguf_obstacle: str | None = None
    """Why what is made of it cannot be exported to GGUF; none where it can."""


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of an adapter."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """An adapter counts alpha / rank times."""
    target_modules: tuple[Linear, ...] = LINEARS
    """Matrices that get one; by default all of a layer (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314)."""

    @model_validator(mode="after")
    def _targets_are_named_once(self) -> Self:
        if not self.target_modules or len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules needs at least one name, each once")
        return self


class Base(Section):
    """The model that training continues from; its size, shape and tokenizer take the place of those in `model`."""

    model: str
    """Absolute path of a folder with safetensors (Qwen3, Qwen2, Llama or Mistral), `models:/NAME@ALIAS` of the site's
    registry, or the digest of a model that the store has. `sovereign train --from MODEL` sets it."""
    method: Literal["full", "lora"] = "full"
    """Train all weights, or adapters that are merged into them at the end."""
    lora: Lora = Lora()
    """The adapters, where the method is lora."""
    new_tokens: Annotated[int, Field(ge=0, le=200_000)] = 0
    """Tokens added to the base's tokenizer, learned from this corpus; 0 keeps the tokenizer as it is."""
    known: KnownBase | None = None
    """What the commands found the base to be; not written by hand."""

    @field_validator("model")
    @classmethod
    def _model_can_be_found(cls, model: str) -> str:
        if not (Path(model).is_absolute() or _ALIAS.fullmatch(model) or _DIGEST.fullmatch(model)):
            raise ValueError("must be a folder's absolute path, models:/NAME@ALIAS, or a digest of 64 hex digits")
        return model

    def config(self) -> dict[str, Any]:
        """What training's result depends on, beside the digest of the base, JSON values."""
        unused = {"model", "known"} | ({"lora"} if self.method == "full" else set())
        return self.model_dump(mode="json", exclude=unused)

    @property
    def folder(self) -> Path | None:
        """The folder, where `model` names one."""
        return Path(self.model) if Path(self.model).is_absolute() else None

    @property
    def alias(self) -> tuple[str, str] | None:
        """Name and alias in the registry, where `model` names them."""
        match = _ALIAS.fullmatch(self.model)
        return (match[1], match[2]) if match else None
