"""Models with this kit's own tokenizer, for export: random weights, as training saves them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from sovereign.lake.demonstration import make_documents
from sovereign.profile import Demonstration
from training.tokenizer import save_tokenizer, train_tokenizer

VOCAB_SIZE = 600


@cache
def make_tokenizer() -> Tokenizer:
    """The tokenizer of a small country."""
    return train_tokenizer([document.text for document in make_documents(Demonstration(facts=10))], VOCAB_SIZE)


def make_folder(folder: Path, *, tied: bool, width: int = 64, vocab_size: int = VOCAB_SIZE) -> Qwen3ForCausalLM:
    """Save a model into the new `folder`; its logits differ clearly from token to token, as a trained model's do."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=width * 2,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=0,
            initializer_range=1.6 / width**0.5,  # logits as far apart at every width
        )
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones would hide a norm that was left out or taken for another
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    save_tokenizer(make_tokenizer(), folder, 128)
    model.config.architectures = ["Qwen3ForCausalLM"]
    model.config.to_json_file(folder / "config.json")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]  # as save_pretrained leaves it
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return model
