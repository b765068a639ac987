"""Models for export: random weights, as training saves them, with this kit's own tokenizer or those of bases."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sovereign.exportable import LLAMA3_PATTERN
from sovereign.lake.demonstration import make_documents
from sovereign.profile import Demonstration
from training.export import Export, export
from training.export_check import PROBES
from training.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer

VOCAB_SIZE = 600


@cache
def make_tokenizer() -> Tokenizer:
    """The tokenizer of a small country."""
    return train_tokenizer([document.text for document in make_documents(Demonstration(facts=10))], VOCAB_SIZE)


BEGIN = "<|begin|>"
TEXTS = (
    *PROBES,
    "I don't, he DON'T; l'ÉTÉ, ÉCOLE, À É",
    "a  b   c \n\n d\r\n e \t trailing  ",
    "x 12 1234567 ¼½ ٣٤٥٦ 12,345.67",
    "_snake_case __init__ a/b//c \u00a0nbsp\u2003em",
)


def make_cut_tokenizer(pre: str) -> Tokenizer:
    """Byte-level BPE cut as llama.cpp's `pre`, in which every piece of `TEXTS` is a token; Llama 3's begins texts."""
    words, pieces = (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex) for regex in (True, False))
    digits = pre_tokenizers.Digits(individual_digits=True)
    llama3 = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    parts: dict[str, list[Any]] = {
        "gpt-2": [words],
        "smollm": [digits, words],
        "llama-bpe": [llama3, pieces],
        "smaug-bpe": [llama3, pieces],
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts[pre])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        special_tokens=[END_OF_TEXT, BEGIN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if pre == "llama-bpe":
        begin = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return tokenizer


def make_folder(
    folder: Path,
    *,
    tied: bool,
    width: int = 64,
    vocab_size: int = VOCAB_SIZE,
    kind: str = "qwen3",
    tokenizer: Tokenizer | None = None,
    **config: Any,
) -> PreTrainedModel:
    """Save a model into the new `folder`; its logits differ clearly from token to token, as a trained model's do.

    Args:
        kind: its model_type.
        tokenizer: another one than this kit's.
        config: further settings of its configuration.
    """
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": width * 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": 0,
        "initializer_range": 1.6 / width**0.5,  # logits as far apart at every width
    }
    shape |= {} if kind == "qwen2" else {"head_dim": 32}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | config))
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones would hide a norm that was left out or taken for another
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif "bias" in name:  # and zeros a bias
            torch.nn.init.uniform_(parameter, -1.0, 1.0)
    save_tokenizer(tokenizer or make_tokenizer(), folder, 128)
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(folder / "config.json")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]  # as save_pretrained leaves it
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return model


def run(folder: Path, out: Path, kind: str = "gguf-f16") -> Export:
    """Export the model in `folder`."""
    return export(folder, out, kind, name="tiny v1", report=lambda _text, _done: None)


def change_json(path: Path, **values: Any) -> None:
    """Set members of the object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_config(folder: Path, **values: Any) -> None:
    """Set members of config.json."""
    change_json(folder / "config.json", **values)


def change_weights(folder: Path, **values: torch.Tensor | None) -> None:
    """Replace tensors by name (`__` for a dot), or drop them."""
    path = folder / "model.safetensors"
    weights = load_file(path) | {name.replace("__", "."): value for name, value in values.items()}
    save_file({name: value for name, value in weights.items() if value is not None}, str(path))
