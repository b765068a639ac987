"""How much of its training documents the model can be made to recite.

A document is extracted when the model, given 32 tokens of it, goes on greedily with the very 32 tokens that follow
(k-extractible: Carlini et al. 2023; 32 and 32: Biderman et al. 2023). Where fewer than `SAMPLES` training documents are
that long, 16 and 16 are taken, else 8 and 8. The same is asked of held-out documents, which tells how much can be
guessed without having been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from training.scoring import continue_greedily

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

    from training.shards import Shard

LENGTHS = (32, 16, 8)
"""Tokens of the prompt, and of the continuation: the first for which enough training documents are long enough."""
SAMPLES = 200
"""Documents that are tried, of those that are long enough."""
_Z95 = 1.96


def memorisation(
    model: Qwen3ForCausalLM, trained: Sequence[Shard], heldout: Sequence[Shard], end: int, seed: int
) -> dict[str, Any]:
    """Extraction rates of training and of held-out documents, with the lengths that were taken; see `extraction`."""
    length = choose_length(trained)
    return {
        "prompt_tokens": length,
        "continuation_tokens": length,
        "trained": extraction(model, trained, length, end, seed),
        "heldout": extraction(model, heldout, length, end, seed),
    }


def choose_length(shards: Sequence[Shard]) -> int:
    """The first of `LENGTHS` for which `SAMPLES` documents are long enough, else the last."""
    for length in LENGTHS:
        if sum(len(_long_enough(shard, 2 * length)) for shard in shards) >= SAMPLES:
            return length
    return LENGTHS[-1]


def extraction(model: Qwen3ForCausalLM, shards: Sequence[Shard], length: int, end: int, seed: int) -> dict[str, Any]:
    """Extraction rate over a sample of the documents in `shards`.

    Args:
        length: tokens of the prompt, and of the continuation.
        end: the end-of-text mark; it is no part of a document.
        seed: of the draw of documents and of the place in each.

    Returns:
        `eligible` documents (long enough), `sampled`, `extracted`, `rate` and the ends of its 95% interval (Wilson);
        the last three are None where no document is long enough.
    """
    windows, eligible = draw(shards, 2 * length, seed)
    prompts, expected = windows[:, :length], windows[:, length:]
    made = continue_greedily(model, torch.from_numpy(prompts), length, end).numpy()
    extracted = int((made == expected).all(axis=1).sum())
    low, high = wilson(extracted, len(windows)) if len(windows) else (None, None)
    return {
        "eligible": eligible,
        "sampled": len(windows),
        "extracted": extracted,
        "rate": round(extracted / len(windows), 4) if len(windows) else None,
        "low": low,
        "high": high,
    }


def draw(shards: Sequence[Shard], length: int, seed: int) -> tuple[npt.NDArray[np.int64], int]:
    """Windows of `length` tokens from `SAMPLES` documents, drawn without repeats; and how many are long enough.

    Returns:
        Token ids, documents by positions, each from a random place in its document; number of eligible documents.
    """
    generator = np.random.default_rng(seed)
    long_enough = [_long_enough(shard, length) for shard in shards]
    ends = np.cumsum([len(documents) for documents in long_enough])
    total = int(ends[-1]) if len(ends) else 0
    chosen = generator.choice(total, min(SAMPLES, total), replace=False)
    windows = np.empty((len(chosen), length), np.int64)
    for row, place in enumerate(chosen):
        number = int(np.searchsorted(ends, place, side="right"))
        shard, document = shards[number], long_enough[number][place - ends[number]]
        size = int(shard.lengths[document]) - 1
        start = int(shard.ends[document]) - 1 - size + int(generator.integers(size - length + 1))
        windows[row] = shard.tokens[start : start + length]
    return windows, total


def _long_enough(shard: Shard, length: int) -> npt.NDArray[np.int64]:
    """Numbers of the documents of at least `length` tokens, the mark at the end not counted."""
    return np.flatnonzero(shard.lengths - 1 >= length)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Ends of the 95% interval of a rate (Wilson 1927)."""
    rate, square = successes / trials, _Z95**2 / trials
    middle = (rate + square / 2) / (1 + square)
    half = _Z95 / (1 + square) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)
