"""Which models can become a GGUF file: those that llama.cpp computes, and cuts text for, as transformers does.

Told from config.json and tokenizer.json alone, when a base is taken (sovereign/base.py) and when a model is exported
(training/export.py). The rest would be loaded by llama.cpp and be computed in another way, so it is refused. What
llama.cpp does is read in the release that the package `xllamacpp` has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sovereign.errors import TrainingError

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/models/qwen2/tokenization_qwen2.py#L38"""
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""Up to three digits are one piece; https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py"""


@dataclass(frozen=True)
class _Family:
    """Models of one class of transformers."""

    model_type: str
    gguf: str
    """Architecture in the file."""
    settings: Mapping[str, Any]
    """What config.json must say where it says anything."""


_FAMILIES = {
    "Qwen3ForCausalLM": _Family("qwen3", "qwen3", {"attention_bias": False, "use_sliding_window": False}),
    "Qwen2ForCausalLM": _Family("qwen2", "qwen2", {"use_sliding_window": False}),
    "LlamaForCausalLM": _Family("llama", "llama", {"attention_bias": False, "mlp_bias": False}),
    "MistralForCausalLM": _Family("mistral", "llama", {}),
}
_MISTRAL_WINDOW, _MISTRAL_POSITIONS = 4096, 131_072
"""What transformers' MistralConfig takes where config.json says nothing."""

_BYTES, _WORDS = ("ByteLevel", False, False), ("ByteLevel", False, True)
_PRE_TOKENIZERS = {
    # Parts as `_parts` names them, and whether a piece that is a token stays whole (ignore_merges).
    ((("Split", QWEN2_PATTERN, "Isolated", False), _BYTES), False): "qwen2",
    ((("Split", LLAMA3_PATTERN, "Isolated", False), _BYTES), True): "llama-bpe",
    ((("Split", LLAMA3_PATTERN, "Isolated", False), _BYTES), False): "smaug-bpe",
    ((_WORDS,), False): "gpt-2",
    ((("Digits", True), _WORDS), False): "smollm",
}
"""llama.cpp's names: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp"""


@dataclass(frozen=True)
class Cutting:
    """How a tokenizer cuts text, in llama.cpp's terms."""

    pre: str
    """Kind of the pre-tokenizer."""
    first: int | None
    """Token that it puts before a text; None: none."""


def gguf_architecture(config: Mapping[str, Any]) -> str:
    """The architecture in the file of a model with this config.json.

    Raises:
        TrainingError: llama.cpp would compute it in another way.
    """
    found = config.get("architectures")
    name = found[0] if isinstance(found, list) and len(found) == 1 else None
    family = _FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise _refused(f"architectures: {found}", f"one of {', '.join(_FAMILIES)}")
    for key, value in {"model_type": family.model_type, "hidden_act": "silu", **family.settings}.items():
        if config.get(key, value) != value:
            raise _refused(f"{key}: {config[key]}", f"{key}: {value}")
    _check_rope(rope_parameters(config), family)
    width = int(config["num_attention_heads"]) * head_dim(config)
    if family.gguf == "qwen2" and width != config["hidden_size"]:
        raise _refused(f"{width} values of all heads", f"hidden_size, {config['hidden_size']}: llama.cpp's qwen2")
    if family.model_type == "mistral":
        _check_window(config)
    return family.gguf


def _refused(got: str, expected: str, hint: str | None = None) -> TrainingError:
    return TrainingError("this kind of model cannot be exported to GGUF", got=got, expected=expected, hint=hint)


def _check_rope(rope: Mapping[str, Any], family: _Family) -> None:
    """llama.cpp's llama reads a factor for each frequency, which Llama 3's scaling can be written as; qwen's do not."""
    known = ("default", "llama3") if family.gguf == "llama" else ("default",)
    if rope["rope_type"] not in known or rope.get("partial_rotary_factor", 1) != 1:
        raise TrainingError(
            "rotary embeddings scaled in this way cannot be exported to GGUF",
            got=dict(rope),
            expected=f"of all of a head, rope_type {' or '.join(known)}",
        )


def _check_window(config: Mapping[str, Any]) -> None:
    """llama.cpp's llama attends to all tokens; up to the window's length that is the same."""
    window = config.get("sliding_window", _MISTRAL_WINDOW)
    positions = config.get("max_position_embeddings", _MISTRAL_POSITIONS)
    if window is not None and window < positions:
        raise _refused(
            f"sliding_window: {window}, max_position_embeddings: {positions}",
            "no window, or one as long as all positions",
            hint=f"lower max_position_embeddings to {window} before training: up to there the window changes nothing",
        )


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the rotary embedding as transformers 5 names them, also where transformers 4 wrote config.json."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    rest = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    return {"rope_theta": 10_000.0, **rest, **found, "rope_type": kind}


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of a head."""
    if found := config.get("head_dim"):
        return int(found)
    is_qwen3 = config["architectures"] == ["Qwen3ForCausalLM"]
    return 128 if is_qwen3 else int(config["hidden_size"] // config["num_attention_heads"])


def gguf_cutting(tokenizer: Mapping[str, Any]) -> Cutting:
    """Args: `tokenizer`, tokenizer.json.

    Raises:
        TrainingError: llama.cpp would cut text in another way.
    """
    model = tokenizer["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _not_cut(f"{model['type']}, as SentencePiece makes it")
    if odd := {key: model[key] for key in _BPE_OPTIONS if model.get(key)}:
        raise _not_cut(f"BPE with {odd}")
    # llama.cpp normalises nothing; Qwen's own tokenizer makes NFC of a text, which most texts are.
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise _not_cut(f"normaliser {normalizer}")
    parts = tuple(_parts(tokenizer.get("pre_tokenizer")))
    pre = _PRE_TOKENIZERS.get((parts, bool(model.get("ignore_merges"))))
    if pre is None:
        raise _not_cut(f"pre-tokenizer {parts}, ignore_merges {bool(model.get('ignore_merges'))}")
    return Cutting(pre, _first(tokenizer.get("post_processor")))


_BPE_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def _not_cut(got: str) -> TrainingError:
    return TrainingError(
        "this tokenizer cannot be exported to GGUF",
        got=got,
        expected=f"byte-level BPE, cut as one of llama.cpp's {', '.join(_PRE_TOKENIZERS.values())}",
        hint="tokenizers that this kit's stage `tokenize` made, and those of Qwen and Llama 3, can be",
    )


def _parts(pre: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
    """A pre-tokenizer's parts and what of their settings counts, one after the other."""
    if pre is None:
        return []
    match pre["type"]:
        case "Sequence":
            return [part for inner in pre["pretokenizers"] for part in _parts(inner)]
        case "Split":
            return [("Split", pre["pattern"].get("Regex"), pre["behavior"], pre["invert"])]
        case "ByteLevel":
            return [("ByteLevel", pre["add_prefix_space"], pre.get("use_regex", True))]
        case "Digits":
            return [("Digits", pre["individual_digits"])]
        case other:
            return [(other,)]


def _first(post: Mapping[str, Any] | None) -> int | None:
    """The token that a post-processor puts before a text.

    Raises:
        TrainingError: it adds others.
    """
    steps = post["processors"] if post and post["type"] == "Sequence" else [post] if post else []
    steps = [step for step in steps if step["type"] != "ByteLevel"]  # that one moves offsets only
    if not steps:
        return None
    single = steps[0].get("single", [])
    names = [part["SpecialToken"]["id"] for part in single[:-1] if "SpecialToken" in part]
    added = [token for name in names for token in steps[0]["special_tokens"][name]["ids"]]
    if len(steps) > 1 or not single or "Sequence" not in single[-1] or len(names) < len(single) - 1 or len(added) > 1:
        raise _not_cut(f"a text between other tokens, {[step['type'] for step in steps]}")
    return added[0] if added else None
