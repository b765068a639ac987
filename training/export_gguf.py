"""A Hugging Face folder written as one GGUF file that llama.cpp loads: Qwen3's tensors, tokenizer and chat template.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Matrices become f16 or q8_0, vectors (norms) stay
float32, as llama.cpp's own converter does it. One tensor is in memory at a time. Only what this kit trains is written:
Qwen3 with the pre-tokenizer of Qwen2; anything else is refused, since llama.cpp would load it and compute nonsense.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from training.tokenizer import PATTERN

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedTokenizerFast

ARCHITECTURE = "qwen3"
TYPES = ("F16", "Q8_0")
"""Types of matrices that can be written here; q4_k is made from F16 by llama.cpp."""
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_F16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Source:
    """A model's folder as training writes it, checked."""

    folder: Path
    config: Mapping[str, Any]
    """config.json."""
    files: Mapping[str, Path]
    """File of weights by the name of each tensor in it."""

    @property
    def is_tied(self) -> bool:
        """Input and output embedding are one matrix."""
        return bool(self.config["tie_word_embeddings"])

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.config["num_hidden_layers"])


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
    _check_config(config)
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            files |= dict.fromkeys(tensors.keys(), path)
    source = Source(folder, config, files)
    _check_names(source)
    return source


def _check_config(config: Mapping[str, Any]) -> None:
    """Refuse what would be computed in another way by llama.cpp's Qwen3."""
    expected = {"model_type": "qwen3", "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise TrainingError(
                "this kind of model cannot be exported to GGUF", got=f"{key}: {config[key]}", expected=f"{key}: {value}"
            )
    if (rope := _rope(config)).get("rope_type", "default") != "default":
        raise TrainingError("scaled rotary embeddings cannot be exported to GGUF", got=rope, expected="default")


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters of the rotary embedding, as transformers 5 and 4 write them."""
    found: Mapping[str, Any] = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    return found


def _check_names(source: Source) -> None:
    """The tensors are those of the architecture; tied weights may stand under either name, or both."""
    layer = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    layer += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    expected = {f"model.layers.{n}.{name}.weight" for n in range(source.num_layers) for name in layer}
    expected |= {"model.norm.weight"}
    shared = {_HEAD, _EMBEDDING} & source.files.keys()
    expected |= shared if source.is_tied and shared else {_HEAD, _EMBEDDING}
    if expected != source.files.keys():
        raise TrainingError(
            f"the weights in {source.folder} are not those of its configuration",
            got=f"missing {sorted(expected - source.files.keys())[:3]}, unknown "
            f"{sorted(source.files.keys() - expected)[:3]}",
            hint="is config.json of another model? tie_word_embeddings counts",
        )


def write_gguf(
    source: Source, tokenizer: PreTrainedTokenizerFast, path: Path, kind: str, *, name: str, digest: str, say: Say
) -> None:
    """Write the new file `path`.

    Args:
        kind: type of the matrices, one of `TYPES`.
        name: the model's, for people.
        digest: the source's (sovereign.serving.fetch.model_digest), kept as `sovereign.model_digest`.
        say: called with the tensors done and their number.

    Raises:
        TrainingError: the tokenizer is of another kind, or a value does not fit the type.
    """
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_name(name)
        writer.add_string("sovereign.model_digest", digest)
        _add_shape(writer, source.config)
        _add_tokenizer(writer, tokenizer, int(source.config["vocab_size"]))
        matrices = gguf.GGMLQuantizationType[kind]
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        names = _gguf_names(source)
        for theirs, ours in names.items():
            _add_info(writer, theirs, _shape(source, ours), matrices)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, array in enumerate(_arrays(source, names, matrices), 1):
            writer.write_tensor_data(array)
            say(done, len(names))
    finally:
        writer.close()


Say = Callable[[int, int], None]


def _add_shape(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Vocabulary, merges, marks and chat template.

    Raises:
        TrainingError: not the byte-level BPE that llama.cpp knows as `qwen2`.
    """
    from gguf import TokenType

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    _check_tokenizer(described)
    special = {token["id"]: token["special"] for token in described["added_tokens"]}
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(names) >= vocab_size:
        raise TrainingError("the tokenizer has more tokens than the model", got=max(names) + 1, expected=vocab_size)
    kinds = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED, None: TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(vocab_size)])
    writer.add_token_types(
        [kinds[special.get(number)] if number in names else TokenType.UNUSED for number in range(vocab_size)]
    )
    merges = described["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = tokenizer.get_vocab()[str(tokenizer.eos_token)]
    writer.add_bos_token_id(end)  # training puts it before every document; without, llama.cpp assumes token 11
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(str(tokenizer.chat_template))


def _check_tokenizer(described: Mapping[str, Any]) -> None:
    """Args: `described`, tokenizer.json."""
    splits = [
        part["pattern"].get("Regex")
        for part in (described["pre_tokenizer"] or {}).get("pretokenizers", ())
        if part["type"] == "Split"
    ]
    # llama.cpp normalises nothing; Qwen's own tokenizer makes NFC of a text, which most texts are.
    normalizer = (described["normalizer"] or {}).get("type")
    if described["model"]["type"] != "BPE" or splits != [PATTERN] or normalizer not in (None, "NFC"):
        raise TrainingError(
            "this tokenizer cannot be exported to GGUF",
            got=f"{described['model']['type']}, split by {splits}, normaliser {normalizer}",
            expected=f"byte-level BPE, split as Qwen2's ({PATTERN})",
            hint="export a model that this kit's stage `tokenize` made the tokenizer of",
        )


def _gguf_names(source: Source) -> dict[str, str]:
    """Name of each tensor in the folder, by its name in the file, in the file's order."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, source.num_layers)
    found = {}
    for ours in sorted(source.files):
        if source.is_tied and ours == _HEAD and _EMBEDDING in source.files:
            continue  # the same matrix; checked when it is read
        stem = _EMBEDDING if source.is_tied and ours == _HEAD else ours
        theirs = names.get_name(stem, try_suffixes=(".weight",))
        assert theirs is not None, ours  # _check_names has seen it
        found[theirs] = ours
    return found


def _shape(source: Source, name: str) -> tuple[int, ...]:
    from safetensors import safe_open

    with safe_open(source.files[name], framework="np") as tensors:
        return tuple(tensors.get_slice(name).get_shape())


def _add_info(writer: GGUFWriter, name: str, shape: tuple[int, ...], matrices: GGMLQuantizationType) -> None:
    """Announce a tensor: its place in the file follows from its size."""
    from gguf import GGMLQuantizationType, quants

    if len(shape) == 1:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape), GGMLQuantizationType.F32)
    elif matrices is GGMLQuantizationType.F16:
        writer.add_tensor_info(name, shape, np.dtype(np.float16), 2 * math.prod(shape), matrices)
    else:
        rows = quants.quant_shape_to_byte_shape(shape, matrices)
        writer.add_tensor_info(name, rows, np.dtype(np.uint8), math.prod(rows), matrices)


def _arrays(
    source: Source, names: Mapping[str, str], matrices: GGMLQuantizationType
) -> Iterator[npt.NDArray[np.float32 | np.float16 | np.uint8]]:
    """The tensors as they are written, in the order of `names`.

    Raises:
        TrainingError: a value is not finite or does not fit, or tied weights differ.
    """
    from gguf import GGMLQuantizationType, quants

    for name in names.values():
        values = read_tensor(source, name)
        if source.is_tied and name == _EMBEDDING and _HEAD in source.files:
            _check_tied(source, values)
        largest = float(np.abs(values).max())
        if not math.isfinite(largest) or (matrices is GGMLQuantizationType.F16 and largest > _F16_MAX):
            raise TrainingError(f"{name} does not fit into f16", got=f"largest value {largest:g}", expected="65504")
        if values.ndim == 1:
            yield values
        elif matrices is GGMLQuantizationType.F16:
            yield values.astype(np.float16)
        else:
            yield quants.quantize(values, matrices)


def _check_tied(source: Source, embedding: npt.NDArray[np.float32]) -> None:
    """Raises: TrainingError when the output embedding is stored too and is another matrix."""
    if not np.array_equal(embedding, read_tensor(source, _HEAD)):
        raise TrainingError(
            "input and output embedding differ, but the configuration ties them",
            got=f"{_EMBEDDING} and {_HEAD} in {source.folder}",
            hint="set tie_word_embeddings to false in config.json if they were trained apart",
        )


def read_tensor(source: Source, name: str) -> npt.NDArray[np.float32]:
    """One tensor, float32 (torch reads it: numpy has no bfloat16)."""
    from safetensors import safe_open

    with safe_open(source.files[name], framework="pt") as tensors:
        values: npt.NDArray[np.float32] = tensors.get_tensor(name).float().numpy()
    return values
