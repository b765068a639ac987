"""The tokenizer: byte-level BPE with the pre-tokenizer of Qwen2, trained on as much text of every language.

Every byte sequence can be written and read back exactly: there is no unknown token and no normalisation here (the lake
has normalised the text). Digits are single tokens. llama.cpp knows this pre-tokenizer under the name `qwen2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign.errors import StageError
from sovereign.exportable import QWEN2_PATTERN
from sovereign.lake.demonstration import CHAT_TEMPLATE
from sovereign.lake.documents import Document
from sovereign.profile_training import MIN_VOCAB_SIZE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document; token 0."""
PATTERN = QWEN2_PATTERN
"""Cuts text into pieces; no token reaches over a cut."""
SAMPLE_BYTES = 64 * 2**20
"""Text that the tokenizer is trained on, all languages together."""
MAX_REPEATS = 16
"""A small language's documents are counted at most this often to weigh as much as the others."""
MIN_FREQUENCY = 2
"""What stands once in the sample is no token: the model could not learn it."""
_LONG_RUN = re.compile(r"[^\W\d_]{1000,}")
"""Letters without any mark between, such as genomes: the trainer's time grows with their length squared (200,000 take
19 s, a million would take hours), and no language has such words."""


def text_bytes(documents: Iterable[Document]) -> dict[str, int]:
    """Bytes of text by language."""
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.language] = sizes.get(document.language, 0) + len(document.text.encode())
    return dict(sorted(sizes.items()))


def draw_sample(documents: Iterable[Document], sizes: Mapping[str, int], sample_bytes: int) -> dict[str, list[bytes]]:
    """Texts by language in UTF-8, of every language the same number of bytes where it has so many.

    Documents are taken at even distances, so that every source of a language has its part. At most `sample_bytes` are
    kept in all; the last document of a language may be cut.

    Args:
        sizes: see `text_bytes`, of the same documents.
    """
    share = sample_bytes // max(1, len(sizes))
    texts: dict[str, list[bytes]] = {language: [] for language in sizes}
    passed, kept = dict.fromkeys(sizes, 0), dict.fromkeys(sizes, 0)
    for document in documents:
        language, text = document.language, document.text.encode()
        if kept[language] < share and kept[language] * sizes[language] <= passed[language] * share:
            texts[language].append(text[: share - kept[language]])
            kept[language] += len(texts[language][-1])
        passed[language] += len(text)
    return texts


def balanced(texts: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """The sample as the trainer sees it: a language with less text than the largest is repeated; no endless words."""
    largest = max(sum(map(len, own)) for own in texts.values())
    for own in texts.values():
        size = 0
        for text in chain.from_iterable(repeat(own, MAX_REPEATS)):
            if size >= largest:
                break
            size += len(text)
            yield _LONG_RUN.sub(" ", text.decode(errors="ignore"))  # the last one may be cut inside a character


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on `texts`; the same texts in the same order give the same tokenizer.

    Raises:
        StageError: the text does not support so many tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise StageError(
            "the text does not support so large a vocabulary",
            got=f"{found} tokens: the bytes, and what occurs {MIN_FREQUENCY} times or more",
            expected=f"model.vocab_size = {vocab_size}",
            hint=f"set model.vocab_size to at most {found}, or add text" if found >= MIN_VOCAB_SIZE else "add text",
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, sequence_length: int) -> list[Path]:
    """Write `tokenizer` as a fast tokenizer of transformers, chat template included; returns the files."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=sequence_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    folder.mkdir(parents=True, exist_ok=True)
    wrapped.save_pretrained(folder)
    return sorted(path for path in folder.iterdir() if path.is_file())
