"""Measures of a language model: bits per byte with its baselines, and answers to questions.

Bits per byte is the number of bits that a model needs to write a text, divided by the text's length in UTF-8 bytes;
unlike the loss it does not depend on the tokenizer. The mark that ends a document is part of what must be written.

Suffixes of arrays: b sequences, t positions, v tokens of the vocabulary.
"""

from __future__ import annotations

import lzma
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig

from training.shards import Shard
from training.token_ids import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

T = TypeVar("T")

_BATCH_LOGITS = 2**24
_COUNT_AT_ONCE = 2**24
_IGNORED = -100


@dataclass(frozen=True)
class Window:
    """Part of a document that fits into the model, and how much of it was seen in the window before."""

    ids: list[int]
    """The end-of-text mark before the document, or tokens seen before; then tokens to predict."""
    num_context: int
    """Leading tokens that are not predicted here, at least 1."""


def windows(ids: Sequence[int], end: int, length: int) -> Iterator[Window]:
    """Cut a document so that every token of it, and the mark at its end, is predicted once.

    Every window but the first keeps half its length as context.

    Args:
        ids: tokens of one document.
        end: the end-of-text mark; it also stands before the document, as in training.
        length: tokens that the model takes.
    """
    marked = [end, *ids, end]
    yield Window(marked[: length + 1], 1)
    step = length // 2
    for start in range(length + 1, len(marked), step):
        first = start - (length + 1 - step)
        yield Window(marked[first : start + step], start - first)


def model_bits(model: Qwen3ForCausalLM, documents: Iterable[Sequence[int]], end: int, length: int) -> float:
    """Bits that the model needs to write the documents (token ids), each with the mark at its end."""
    cut = sorted((window for ids in documents for window in windows(ids, end, length)), key=lambda w: len(w.ids))
    nats = 0.0
    with torch.inference_mode():
        for batch in _batches(cut, lambda window: len(window.ids), _batch_tokens(model)):
            width = max(len(window.ids) for window in batch)
            ids_bt = torch.full((len(batch), width), end, device=model.device)
            labels_bt = torch.full((len(batch), width), _IGNORED, device=model.device)
            for row, window in enumerate(batch):
                ids_bt[row, : len(window.ids)] = torch.tensor(window.ids)
                labels_bt[row, window.num_context : len(window.ids)] = torch.tensor(window.ids[window.num_context :])
            # Padding is on the right: a causal model's predictions before it do not see it.
            logits_btv = model(input_ids=ids_bt[:, :-1], use_cache=False).logits
            nats += torch.nn.functional.cross_entropy(
                logits_btv.flatten(0, 1).float(), labels_bt[:, 1:].flatten(), ignore_index=_IGNORED, reduction="sum"
            ).item()
    return nats / math.log(2)


def count_tokens(shards: Iterable[Path], vocab_size: int) -> npt.NDArray[np.int64]:
    """Occurrences of each token in token shards, by token id."""
    counts = np.zeros(vocab_size, np.int64)
    for path in shards:
        tokens = Shard(path).tokens
        for start in range(0, len(tokens), _COUNT_AT_ONCE):
            counts += np.bincount(tokens[start : start + _COUNT_AT_ONCE], minlength=vocab_size)
    return counts


def unigram_bits(documents: Iterable[Sequence[int]], end: int, counts: npt.NDArray[np.int64]) -> float:
    """Bits under a model that only knows how often each token occurs, with one added to every count.

    Args:
        counts: occurrences in the training tokens, by token id; its length is the vocabulary's.
    """
    smoothed = counts.astype(np.float64) + 1
    bits_v = -np.log2(smoothed / smoothed.sum())
    return float(sum(bits_v[list(ids)].sum() + bits_v[end] for ids in documents))


def uniform_bits(documents: Iterable[Sequence[int]], vocab_size: int) -> float:
    """Bits under a model that knows nothing: every token costs the same."""
    return sum(len(ids) + 1 for ids in documents) * math.log2(vocab_size)


def xz_bits(texts: Iterable[str]) -> int:
    """Bits that `xz -9` needs for the texts in one file, one after the other with a line feed between."""
    return 8 * len(lzma.compress("\n".join(texts).encode(), preset=9))


def answer_all(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """The most likely continuation of each prompt up to a line feed or the end-of-text mark, without spaces around it.

    Prompts of the same length are answered together, so that nothing is padded.
    """
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for number, ids in enumerate(text_ids(tokenizer, prompts)):
        by_length[len(ids)].append((number, ids))
    answers = [""] * len(prompts)
    for group in by_length.values():
        ids_bt = torch.tensor([ids for _, ids in group])
        made_bt = continue_greedily(model, ids_bt, max_new_tokens, int(tokenizer.eos_token_id))
        texts = tokenizer.batch_decode(made_bt, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for (number, _), text in zip(group, texts, strict=True):
            answers[number] = text.lstrip(" ").partition("\n")[0].strip()
    return answers


def continue_greedily(model: Qwen3ForCausalLM, ids_bt: torch.Tensor, num_tokens: int, end: int) -> torch.Tensor:
    """The most likely continuation of each row, on the CPU; after the end-of-text mark `end` there are only marks.

    Args:
        ids_bt: prompts of the same length, so that nothing is padded.
        num_tokens: tokens to make, for each row.
    """
    num_rows, length = ids_bt.shape
    made_bt = torch.full((num_rows, num_tokens), end)
    size = max(1, _batch_tokens(model) // (length + num_tokens))
    with torch.inference_mode(), neutral_generation(model, end):
        for start in range(0, num_rows, size):
            prompts_bt = ids_bt[start : start + size].to(model.device)
            found_bt = model.generate(  # type: ignore[misc]  # its annotation refuses every real model
                prompts_bt,
                attention_mask=torch.ones_like(prompts_bt),
                max_new_tokens=num_tokens,
            )[:, length:]
            made_bt[start : start + size, : found_bt.shape[1]] = found_bt.cpu()
    return made_bt


@contextmanager
def neutral_generation(model: Qwen3ForCausalLM, end: int) -> Iterator[None]:
    """Inside, the model generates the most likely token at each place, up to the end-of-text mark `end`.

    `generate` takes from the model's own settings what its caller leaves out: a base's repetition penalty, suppressed
    or forced tokens and the like would make other answers of the same probabilities.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    try:
        yield
    finally:
        model.generation_config = own


def ignored_settings(model: Qwen3ForCausalLM) -> dict[str, Any]:
    """What the model's own settings for generation say and no measure here applies, by name; JSON values."""
    marks = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")
    said = model.generation_config.to_diff_dict()
    neutral = {"do_sample": False}
    return {name: value for name, value in sorted(said.items()) if name not in marks and neutral.get(name) != value}


def _batch_tokens(model: Qwen3ForCausalLM) -> int:
    """Tokens in one forward pass, so that the logits stay small whatever the vocabulary."""
    return max(1, _BATCH_LOGITS // int(model.config.vocab_size))


def _batches(items: Iterable[T], length: Callable[[T], int], max_tokens: int) -> Iterator[list[T]]:
    """Neighbours in `items`, as many as make at most `max_tokens` when all are as long as the longest; at least one."""
    batch: list[T] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if batch and longest * (len(batch) + 1) > max_tokens:
            yield batch
            batch, longest = [], length(item)
        batch.append(item)
    if batch:
        yield batch
