"""Types of the tensors in a GGUF file: which tensor gets which, and its values as blocks of that type.

The blocks are made by ggml of the package `xllamacpp`, by the function that llama.cpp's own quantiser calls for each
tensor; the package has no Python interface to it, but exports it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.export_source import Source, Tensor

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

PLAIN: dict[str, npt.DTypeLike] = {"F32": np.float32, "F16": np.float16}
"""Types without blocks."""
_SHORT_ROWS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
"""What rows get that are no whole blocks of 256; these have blocks of 32."""


def tensor_type(tensor: Tensor, kind: str, source: Source) -> GGMLQuantizationType:
    """The type of a tensor in a file of `kind` (see `training.export_gguf.TYPES`)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    if kind != "Q4_K_M":
        return GGMLQuantizationType[kind]
    name = "Q6_K" if _is_sensitive(tensor, source) else "Q4_K"
    for name in (name, _SHORT_ROWS[name]):  # noqa: B020
        wanted = GGMLQuantizationType[name]
        if tensor.shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0:
            return wanted
    return GGMLQuantizationType.F16


def _is_sensitive(tensor: Tensor, source: Source) -> bool:
    """The tensors for which Q4_K_M spends more bits.

    https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp
    """
    if tensor.name in ("output.weight", "token_embd.weight"):
        return tensor.name == "output.weight" or source.is_tied
    if not tensor.name.endswith((".attn_v.weight", ".ffn_down.weight")):
        return False
    layer, num_layers = int(tensor.name.split(".")[1]), source.num_layers
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def encode(values: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    """The values of a tensor as its type stores them."""
    from gguf import quants

    if kind.name in PLAIN:
        return values.astype(PLAIN[kind.name])
    rows = np.ascontiguousarray(values, np.float32)
    stored = np.empty(quants.quant_shape_to_byte_shape(rows.shape, kind), np.uint8)
    num_bytes = _ggml().ggml_quantize_chunk(
        int(kind), rows.ctypes.data, stored.ctypes.data, 0, rows.size // rows.shape[-1], rows.shape[-1], None
    )
    assert num_bytes == stored.nbytes, (kind.name, num_bytes, stored.nbytes)
    return stored


@cache
def _ggml() -> ctypes.CDLL:
    import xllamacpp.xllamacpp

    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    # https://github.com/ggml-org/ggml/blob/master/include/ggml.h
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]  # fmt: skip
    return library
