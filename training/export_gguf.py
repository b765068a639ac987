"""A model written as one GGUF file that llama.cpp loads: tensors, shape, tokenizer and chat template.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Matrices become one of `TYPES`, vectors (norms,
biases) stay float32, as llama.cpp's own converter does it. One tensor is in memory at a time, and the same source gives
the same bytes. Which models and tokenizers it can be: sovereign/exportable.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sovereign.errors import TrainingError
from sovereign.exportable import gguf_cutting
from training.export_source import Source, Tensor, gguf_tensors
from training.export_types import PLAIN, encode, tensor_type

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedTokenizerFast

TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0", "Q4_K_M": "MOSTLY_Q4_K_M"}
"""Types of matrices, and what gguf calls a file of them."""
_F16_MAX = float(np.finfo(np.float16).max)
"""Scales of quantised blocks are f16 too."""


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

    writer = gguf.GGUFWriter(path, source.architecture)
    try:
        writer.add_name(name)
        writer.add_string("sovereign.model_digest", digest)
        _add_shape(writer, source)
        _add_tokenizer(writer, tokenizer, int(source.config["vocab_size"]))
        _add_turn_ends(writer, source.folder / "generation_config.json", int(str(tokenizer.eos_token_id)))
        writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        wanted = [(tensor, tensor_type(tensor, kind, source)) for tensor in gguf_tensors(source)]
        for tensor, matrix in wanted:
            _add_info(writer, tensor, matrix)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, array in enumerate(_arrays(wanted), 1):
            writer.write_tensor_data(array)
            say(done, len(wanted))
    finally:
        writer.close()


Say = Callable[[int, int], None]


def _add_shape(writer: GGUFWriter, source: Source) -> None:
    config = source.config
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(source.num_layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(source.num_heads)
    writer.add_head_count_kv(source.num_kv_heads)
    writer.add_key_length(source.head_dim)
    writer.add_value_length(source.head_dim)
    writer.add_rope_dimension_count(source.head_dim)
    writer.add_rope_freq_base(source.rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Vocabulary, merges, marks and chat template.

    Raises:
        TrainingError: llama.cpp would cut text in another way.
    """
    from gguf import TokenType

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    cutting = gguf_cutting(described)
    special = {token["id"]: token["special"] for token in described["added_tokens"]}
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(names) >= vocab_size:
        raise TrainingError("the tokenizer has more tokens than the model", got=max(names) + 1, expected=vocab_size)
    kinds = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED, None: TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutting.pre)
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(vocab_size)])
    writer.add_token_types(
        [kinds[special.get(number)] if number in names else TokenType.UNUSED for number in range(vocab_size)]
    )
    merges = described["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = tokenizer.get_vocab()[str(tokenizer.eos_token)]
    begin = cutting.first if cutting.first is not None else tokenizer.bos_token_id
    writer.add_bos_token_id(end if begin is None else begin)  # without any, llama.cpp assumes token 11
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end if tokenizer.pad_token_id is None else int(str(tokenizer.pad_token_id)))
    writer.add_add_bos_token(cutting.first is not None)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(str(tokenizer.chat_template))


def _add_turn_ends(writer: GGUFWriter, generation_config: Path, end: int) -> None:
    """Other tokens at which an answer ends; the format has places for two."""
    if not generation_config.is_file():
        return
    ends = json.loads(generation_config.read_text(encoding="utf-8")).get("eos_token_id")
    others = [one for one in (ends if isinstance(ends, list) else [ends]) if one is not None and one != end]
    for add, other in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(other)


def _add_info(writer: GGUFWriter, tensor: Tensor, kind: GGMLQuantizationType) -> None:
    """Announce a tensor: its place in the file follows from its size."""
    from gguf import quants

    stored = quants.quant_shape_to_byte_shape(tensor.shape, kind)
    if kind.name in PLAIN:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(PLAIN[kind.name]), math.prod(stored), kind)
    else:
        writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), math.prod(stored), kind)


def _arrays(
    wanted: Sequence[tuple[Tensor, GGMLQuantizationType]],
) -> Iterator[npt.NDArray[np.float32 | np.float16 | np.uint8]]:
    """The tensors as they are written.

    Raises:
        TrainingError: a value is not finite or does not fit, or tied weights differ.
    """
    for tensor, kind in wanted:
        values = tensor.read()
        largest = float(np.abs(values).max())
        if not math.isfinite(largest) or (kind.name != "F32" and largest > _F16_MAX):
            raise TrainingError(
                f"{tensor.origin} does not fit into {kind.name.lower()}",
                got=f"largest value {largest:g}",
                expected="65504",
            )
        yield encode(values, kind)
