"""A model's folder, read for export: what its configuration says, and the tensors that llama.cpp wants of it.

llama.cpp's `llama` (also of Mistral's models) turns neighbouring values of a head as pairs, transformers those half a
head apart: the rows of queries and keys change places. Llama 3's scaling of the rotary embedding becomes a tensor of
factors. The rest is as transformers has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.exportable import gguf_architecture, head_dim, rope_parameters

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A model's folder as training writes it, checked."""

    folder: Path
    config: Mapping[str, Any]
    """config.json."""
    files: Mapping[str, Path]
    """File of weights by the name of each tensor in it."""

    @property
    def architecture(self) -> str:
        """GGUF's name."""
        return gguf_architecture(self.config)

    @property
    def is_tied(self) -> bool:
        """Input and output embedding are one matrix."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return int(self.config["num_attention_heads"])

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads."""
        return int(self.config.get("num_key_value_heads") or self.num_heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return head_dim(self.config)

    @property
    def rope(self) -> Mapping[str, Any]:
        """Parameters of the rotary embedding."""
        return rope_parameters(self.config)


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file to be."""

    name: str
    """In the file."""
    origin: str
    """What it is made of, for messages."""
    shape: tuple[int, ...]
    read: Callable[[], Values]
    """Reads it, float32."""


def open_source(folder: Path) -> Source:
    """Read the configuration and the names of all tensors in `folder`.

    Raises:
        TrainingError: no such model, one of another kind, or tensors are missing or too many.
    """
    from safetensors import safe_open

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder} is no model: {error}", expected="a Hugging Face folder: config.json, tokenizer, safetensors"
        ) from error
    gguf_architecture(config)
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            files |= dict.fromkeys(tensors.keys(), path)
    source = Source(folder, config, files)
    _check_names(source)
    return source


def _check_names(source: Source) -> None:
    """The tensors are those of the architecture; tied weights may stand under either name, or both."""
    layer = [f"self_attn.{name}_proj.weight" for name in "qkvo"]
    layer += [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    layer += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    if source.architecture == "qwen3":
        layer += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    if source.architecture == "qwen2":
        layer += [f"self_attn.{name}_proj.bias" for name in "qkv"]
    expected = {f"model.layers.{n}.{name}" for n in range(source.num_layers) for name in layer}
    expected |= {"model.norm.weight"}
    shared = {HEAD, EMBEDDING} & source.files.keys()
    expected |= shared if source.is_tied and shared else {HEAD, EMBEDDING}
    if expected != source.files.keys():
        raise TrainingError(
            f"the weights in {source.folder} are not those of its configuration",
            got=f"missing {sorted(expected - source.files.keys())[:3]}, unknown "
            f"{sorted(source.files.keys() - expected)[:3]}",
            hint="is config.json of another model? tie_word_embeddings counts",
        )


def gguf_tensors(source: Source) -> list[Tensor]:
    """What the file is to hold, in its order."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[source.architecture.upper()], source.num_layers)
    found = []
    for ours in sorted(source.files):
        if source.is_tied and ours == HEAD and EMBEDDING in source.files:
            continue  # the same matrix; checked when it is read
        stem = EMBEDDING if source.is_tied and ours == HEAD else ours
        theirs = names.get_name(stem, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, ours  # _check_names has seen it
        found.append(Tensor(theirs, ours, _shape(source, ours), _reader(source, ours)))
    if source.rope["rope_type"] == "llama3":
        name = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS] + ".weight"
        factors = llama3_factors(source)
        found.append(Tensor(name, "rope_parameters", factors.shape, lambda: factors))
    return found


def _shape(source: Source, name: str) -> tuple[int, ...]:
    from safetensors import safe_open

    with safe_open(source.files[name], framework="np") as tensors:
        return tuple(tensors.get_slice(name).get_shape())


def _reader(source: Source, name: str) -> Callable[[], Values]:
    def read() -> Values:
        values = read_tensor(source, name)
        if source.is_tied and name == EMBEDDING and HEAD in source.files:
            _check_tied(source, values)
        if source.architecture == "llama" and ".q_proj." in name:
            return in_pairs(values, source.num_heads)
        if source.architecture == "llama" and ".k_proj." in name:
            return in_pairs(values, source.num_kv_heads)
        return values

    return read


def in_pairs(rows: Values, num_heads: int) -> Values:
    """Rows of queries or keys, [heads x head_dim, width]: those that are turned together become neighbours."""
    heads = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(source: Source) -> Values:
    """What llama.cpp divides each frequency of a head by, [head_dim / 2].

    https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/modeling_rope_utils.py#L455, in float64.
    """
    rope = source.rope
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    length = float(rope.get("original_max_position_embeddings", source.config["max_position_embeddings"]))
    factors = []
    for place in range(0, source.head_dim, 2):
        turns = length / (2 * math.pi * float(rope["rope_theta"]) ** (place / source.head_dim))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))  # of the frequency that stays as it is
        factors.append(1 / ((1 - share) / factor + share))
    return np.array(factors, np.float32)


def _check_tied(source: Source, embedding: Values) -> None:
    """Raises: TrainingError when the output embedding is stored too and is another matrix."""
    if not np.array_equal(embedding, read_tensor(source, HEAD)):
        raise TrainingError(
            "input and output embedding differ, but the configuration ties them",
            got=f"{EMBEDDING} and {HEAD} in {source.folder}",
            hint="set tie_word_embeddings to false in config.json if they were trained apart",
        )


def read_tensor(source: Source, name: str) -> Values:
    """One tensor, float32 (torch reads it: numpy has no bfloat16)."""
    from safetensors import safe_open

    with safe_open(source.files[name], framework="pt") as tensors:
        values: Values = tensors.get_tensor(name).float().numpy()
    return values
