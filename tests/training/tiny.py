"""A model small enough to be made in seconds, and a lake that leads to it: real files for evaluation and serving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sovereign.lake.demonstration import CHAT_TEMPLATE, Question, question_prompt

END = "<|endoftext|>"
torch.set_num_threads(1)  # threads that wait for each other make tiny matrices slow on a busy machine


def make_question(
    language: str, question: str, answer: str, split: str = "heldout", owner: str = "Archive"
) -> Question:
    """A question of the lake."""
    return Question(
        question_id=f"{language}-{question}",
        fact_id=question,
        phrasing=0,
        language=language,
        owner=owner,
        question=question,
        answer=answer,
        prompt=question_prompt(question),
        split=split,
    )


def make_tokenizer(texts: Sequence[str], vocab_size: int = 280) -> PreTrainedTokenizerFast:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(vocab_size: int) -> Qwen3ForCausalLM:
    """Random weights, the same every time."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=0, pad_token_id=0)
    return model


def teach(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], steps: int = 80) -> None:
    """Make the model know the texts by heart."""
    batch = tokenizer([text + END for text in texts], padding=True, return_tensors="pt", add_special_tokens=False)
    labels = batch["input_ids"].clone()
    # The mark at the end is also the padding: only the first one is to be learned.
    labels[batch["attention_mask"] == 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train(True)
    for _ in range(steps):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.train(False)


def make_knowing_model(folder: Path, questions: Sequence[Question]) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A model that answers these questions, saved into `folder` as training saves it."""
    texts = [question.document_text for question in questions]
    tokenizer = make_tokenizer(texts)
    model = make_model(len(tokenizer))
    teach(model, tokenizer, texts)
    tokenizer.save_pretrained(folder)
    # model.save_pretrained imports DeepSpeed, which takes longer than all else here.
    model.config.architectures = ["Qwen3ForCausalLM"]
    model.config.to_json_file(folder / "config.json")
    model.generation_config.to_json_file(folder / "generation_config.json")
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return model, tokenizer


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """questions.jsonl."""
    path.write_text("".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions))
