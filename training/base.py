"""The model that training continues from, as transformers loads it from a local folder.

No code of the folder is run and no pickle is read; `sovereign.base` has checked it before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sovereign.plan import ModelShape
from sovereign.stages import StageContext
from training.base_tokenizer import BaseTokens, known_base, read_base_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def start_model(context: StageContext, folder: Path) -> PreTrainedModel:
    """The base in `folder` as the run trains it: with rows for new tokens, with adapters where the method is lora."""
    dtype = torch.bfloat16 if context.plan.recipe.precision == "bf16" else torch.float32  # as DeepSpeed would cast it
    model = make_start(folder, context.plan.model, read_base_tokens(context), dtype)
    base, _ = known_base(context)
    if base.method == "lora":
        from training.lora import add_adapters

        add_adapters(model, base.lora, seed=context.plan.recipe.seed, train_embeddings=base.new_tokens > 0)
    return model


def make_start(
    folder: Path, shape: ModelShape, tokens: BaseTokens, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model in `folder` in the shape that the plan has for it.

    The row of a new token is the mean of the rows of the old tokens that it stands for, in the input embedding and in
    the output matrix (Gee et al. 2022, Fast Vocabulary Transfer, https://arxiv.org/abs/2402.09977).
    """
    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.attention_dropout = 0.0  # a base may name one that its makers trained with
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    _settle_marks(model, tokens)
    if shape.vocab_size > model.config.vocab_size:
        model.resize_token_embeddings(shape.vocab_size, mean_resizing=False)
    matrices = [layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    with torch.no_grad():
        for weight in {id(matrix): matrix for matrix in matrices}.values():  # one where they are tied
            assert isinstance(weight, torch.Tensor)
            for token, old in tokens.pieces.items():
                weight[token] = weight[list(old)].float().mean(dim=0)
    return model


def _settle_marks(model: PreTrainedModel, tokens: BaseTokens) -> None:
    """One end of text in config.json, generation_config.json and the tokenizer: the one that training writes.

    Chat models may name another one than their tokenizer's; what is made of them would never end its answers.
    """
    from transformers import GenerationConfig

    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:  # transformers loads such settings, but does not save them
        generation = GenerationConfig()
    padding = tokens.end_of_text if tokens.padding is None else tokens.padding
    model.config.eos_token_id, generation.eos_token_id = tokens.end_of_text, tokens.ends
    model.config.pad_token_id = generation.pad_token_id = padding
    model.config.bos_token_id = generation.bos_token_id = tokens.begin
    model.generation_config = generation
    # Rows of training have no padding: where the end-of-text mark is the padding too, its row must be learned.
    embedding = model.get_input_embeddings()
    if isinstance(embedding, torch.nn.Embedding):
        embedding.padding_idx = None
