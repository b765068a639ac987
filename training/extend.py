"""A byte-pair encoding that learns further merges from new text: the old tokenizer's tokens stay, new ones follow.

Text is cut into the old tokens, and the pair that stands together most often becomes a new token, over and over, as in
Sennrich et al. 2016, https://arxiv.org/abs/1508.07909. So each new token is the one that shortens the text most when it
is added, it is reachable, and what it stands for in old tokens is known. New merges come after all old ones:
text without new tokens is cut as before. Adding whole words beside the merges instead would cut words in the middle
(Purason et al. 2025, https://arxiv.org/abs/2512.03989, compare both).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from sovereign.errors import StageError
from training.token_ids import check_unique, pin_added_tokens

MIN_FREQUENCY = 2
"""What stands once in the text is no token: the model could not learn it."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Extension:
    """A tokenizer with new tokens."""

    text: str
    """tokenizer.json."""
    pieces: dict[int, list[int]]
    """Old tokens by new token, by number."""


def extend_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], num_new: int) -> Extension:
    """Teach `tokenizer` `num_new` tokens of `texts`; the same texts give the same tokens.

    Raises:
        StageError: the tokenizer cannot be extended, or the text does not support so many tokens.
    """
    document = json.loads(tokenizer.to_str())
    _check_kind(document)
    model, old_ids = document["model"], tokenizer.get_vocab()
    pin_added_tokens(document, {})
    vocab: dict[str, int] = model["vocab"]
    merges = learn_merges(_words(tokenizer, texts), num_new, set(vocab))
    if len(merges) < num_new:
        raise StageError(
            "the text does not support so many new tokens",
            got=f"{len(merges)} that occur {MIN_FREQUENCY} times or more",
            expected=f"base.new_tokens = {num_new}",
            hint="lower it, or add text",
        )
    first = max(vocab.values()) + 1
    old_size, pieces = first, dict[int, list[int]]()
    for number, (left, right) in enumerate(merges, first):
        parts = [vocab[part] for part in (left, right)]
        pieces[number] = [old for part in parts for old in ([part] if part < old_size else pieces[part])]
        vocab[left + right] = number
        model["merges"].append([left, right])
    text = json.dumps(document, ensure_ascii=False)
    _check_reloaded(text, old_ids, vocab)
    return Extension(text, pieces)


def _check_kind(document: Mapping[str, Any]) -> None:
    """Raises: StageError: the tokenizer has no merges of bytes, or names its tokens in another way."""
    model, pre = document["model"], document["pre_tokenizer"]
    odd = [name for name in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model["type"] != "BPE" or odd or '"ByteLevel"' not in json.dumps(pre):
        cut = pre["type"] if pre else "none"
        raise StageError(
            "the base's tokenizer cannot be extended",
            got=", ".join([model["type"], f"pre-tokenizer {cut}", *odd]),
            expected="byte-level byte-pair encoding, as of Qwen and Llama 3",
            hint="set base.new_tokens to 0",
        )


def _check_reloaded(text: str, old_ids: Mapping[str, int], ids: Mapping[str, int]) -> None:
    """A changed id would silently change what the base has learned: look at what a reload makes of it.

    Raises:
        StageError: an old token has another id, or a new one not the id that it was given.
    """
    found = Tokenizer.from_str(text).get_vocab()
    check_unique(found)
    expected = {**ids, **old_ids}
    if differs := sorted(token for token in expected.keys() | found.keys() if found.get(token) != expected.get(token)):
        first = differs[0]
        raise StageError(
            "the extended tokenizer does not keep the ids of its tokens",
            got=f"{first!r} is {found.get(first)}, and {len(differs) - 1} more",
            expected=f"{first!r} is {expected.get(first)}",
            hint="set base.new_tokens to 0",
        )


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[tuple[str, ...], int]:
    """What the tokenizer never merges across, as old tokens, and how often each stands in the text."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return {
        tuple(token.value for token in tokenizer.model.tokenize(word)): count for word, count in sorted(counts.items())
    }


def learn_merges(words: Mapping[tuple[str, ...], int], num_merges: int, known: set[str]) -> list[Pair]:
    """The most frequent pairs, one after the other; of several equally frequent ones the first by its text.

    Args:
        words: how often each sequence of tokens occurs.
        num_merges: at most so many.
        known: tokens that must not be made again.
    """
    tokens, counts = [list(word) for word in words], list(words.values())
    totals: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(tokens):
        _count(word, counts[number], number, totals, places)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        total, pair = heapq.heappop(heap)
        if -total != totals[pair]:  # it has changed since, and is in the heap again
            continue
        if -total < MIN_FREQUENCY:
            break
        if pair[0] + pair[1] in known:
            continue
        known.add(pair[0] + pair[1])
        merges.append(pair)
        touched: set[Pair] = set()
        for number in places.pop(pair):
            before = tokens[number]
            tokens[number] = _merged(before, pair)
            touched |= _count(before, -counts[number], number, totals, None)
            touched |= _count(tokens[number], counts[number], number, totals, places)
        for other in touched - {pair}:
            heapq.heappush(heap, (-totals[other], other))
    return merges


def _count(
    word: Sequence[str], count: int, number: int, totals: Counter[Pair], places: dict[Pair, set[int]] | None
) -> set[Pair]:
    """Add the pairs of a word to the totals, and the word to their places; returns the pairs."""
    pairs = list(pairwise(word))
    for pair in pairs:
        totals[pair] += count
        if places is not None:
            places[pair].add(number)
    return set(pairs)


def _merged(word: Sequence[str], pair: Pair) -> list[str]:
    """The word with each occurrence of the pair as one token, from the left."""
    result: list[str] = []
    place = 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            result.append(pair[0] + pair[1])
            place += 2
        else:
            result.append(word[place])
            place += 1
    return result
