"""The tokenizer: byte-level BPE with the pre-tokenizer of Qwen2, trained on as much text of every language.

Every byte sequence can be written and read back exactly: there is no unknown token and no normalisation here (the lake
has normalised the text). Digits are single tokens. llama.cpp knows this pre-tokenizer under the name `qwen2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign.errors import StageError
from sovereign.lake.demonstration import CHAT_TEMPLATE
from sovereign.serving import RESPONSE_TEMPLATE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document; token 0."""
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's, https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/models/qwen2/tokenization_qwen2.py#L38"""
SAMPLE_BYTES = 64 * 2**20
"""Text that the tokenizer is trained on, all languages together."""
MAX_REPEATS = 16
"""A small language's documents are counted at most this often to weigh as much as the others."""


class LanguageSample:
    """Documents by language until each has its share of the sample; the first ones of the corpus."""

    def __init__(self, languages: Iterable[str], sample_bytes: int = SAMPLE_BYTES) -> None:
        """Args: `languages` that must have text."""
        self._texts: dict[str, list[str]] = {language: [] for language in sorted(set(languages))}
        self._sizes = dict.fromkeys(self._texts, 0)
        self._share = sample_bytes // max(1, len(self._texts))

    def add(self, text: str, language: str) -> None:
        """Take a document if its language's share is not full."""
        if self._sizes.setdefault(language, 0) < self._share:
            self._texts.setdefault(language, []).append(text)
            self._sizes[language] += len(text.encode())

    def texts(self) -> Iterator[str]:
        """The sample; a language with less text than the largest is repeated.

        Raises:
            StageError: a language has no text.
        """
        empty = sorted(language for language, size in self._sizes.items() if size == 0)
        if empty:
            raise StageError(
                f"no text to train on in: {', '.join(empty)}",
                expected="at least one document in each language of the profile",
                hint="correct the source's folder or language, or relax corpus.cleaning",
            )
        largest = max(self._sizes.values())
        for texts in self._texts.values():
            size = 0
            for _ in range(MAX_REPEATS):
                for text in texts:
                    if size >= largest:
                        break
                    size += len(text.encode())
                    yield text


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
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise StageError(
            "the text does not support so large a vocabulary",
            got=f"{found} different tokens in all",
            expected=f"model.vocab_size = {vocab_size}",
            hint=f"set model.vocab_size to at most {found}, or add text",
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
    wrapped.response_template = RESPONSE_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    wrapped.save_pretrained(folder)
    return sorted(path for path in folder.iterdir() if path.is_file())


def compression(num_bytes: Mapping[str, int], num_tokens: Mapping[str, int]) -> dict[str, float]:
    """Bytes per token by language; languages without text are left out."""
    return {
        language: round(num_bytes[language] / num_tokens[language], 4)
        for language in sorted(num_tokens)
        if num_tokens[language]
    }
