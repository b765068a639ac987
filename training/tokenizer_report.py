"""How well the tokenizer serves each language, measured before anything is written with it.

`tokenizer_report.json` has, for each language,
    bytes_per_token         of its text; higher is shorter
    tokens_per_character    the same by characters
    fertility               tokens per word. Words stand between white space; in scripts that are written without it
                            (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan) every letter counts as a word, so that
                            fertility is compared within such a script only
    parity                  times the tokens of the best language, 1 for that one; by one `parity_measure` for all:
        same-content        tokens for the same facts, where the demonstration country tells them in every language of
                            the text: Petrov et al. 2023, https://arxiv.org/abs/2305.15425
        bytes-per-token     the best language's bytes per token divided by this one's, where no text is parallel.
                            Scripts of two or three bytes a character look better by it than they are
    measured_on             `heldout`, or `train` for a language of which nothing is held out
The mark that ends a document is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sovereign.errors import StageError
from sovereign.lake.demonstration import LANGUAGES, make_facts
from sovereign.profile import Demonstration

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = "sovereign/tokenizer-report/v1"
MEASURED_BYTES = 16 * 2**20
"""Text that is measured, all languages together."""
SAME_CONTENT, BYTES_PER_TOKEN = "same-content", "bytes-per-token"

# Tibetan; Thai and Lao; Burmese; Khmer; kana; Han with its extensions.
_UNSPACED = (
    "\u0f00-\u0fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = re.compile(rf"(?=\w)[{_UNSPACED}]")
_WORD = re.compile(r"\S*\w\S*")


def count_words(text: str) -> int:
    """Words of `text`, told apart as the module says; a run without a letter or digit is no word."""
    spaced, num_letters = _LETTER.subn(" ", text)
    return num_letters + len(_WORD.findall(spaced))


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Tokens of the texts."""
    return sum(len(encoded.ids) for encoded in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Counts of one language's texts, and their ratios."""
    size = {
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "characters": sum(map(len, texts)),
        "words": sum(map(count_words, texts)),
        "tokens": count_tokens(tokenizer, texts),
    }
    return size | {
        "bytes_per_token": round(size["bytes"] / size["tokens"], 4),
        "tokens_per_character": round(size["tokens"] / size["characters"], 4),
        "fertility": round(size["tokens"] / max(1, size["words"]), 4),
    }


def same_content_tokens(tokenizer: Tokenizer, settings: Demonstration) -> dict[str, int]:
    """Tokens by language for the same content: every fact asked in every way, with its answer."""
    facts = make_facts(settings)
    return {
        language: count_tokens(
            tokenizer,
            [fact.ask(language, phrasing).document_text for fact in facts for phrasing in range(settings.phrasings)],
        )
        for language in LANGUAGES
    }


def make_report(
    tokenizer: Tokenizer,
    heldout: Mapping[str, Sequence[str]],
    trained: Mapping[str, Sequence[str]],
    demonstration: Demonstration | None,
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        heldout: texts by language that the tokenizer has not seen.
        trained: texts by language, none without text, that stand in where there are none.
    """
    languages: dict[str, dict[str, Any]] = {}
    for language, own in sorted(trained.items()):
        unseen = heldout.get(language)
        languages[language] = measure(tokenizer, unseen or own)
        languages[language]["measured_on"] = "heldout" if unseen else "train"
    if demonstration is not None and set(languages) <= set(LANGUAGES):
        measured_by, costs = SAME_CONTENT, _ratios(same_content_tokens(tokenizer, demonstration), languages)
    else:
        measured_by = BYTES_PER_TOKEN
        costs = _ratios({name: row["tokens"] / row["bytes"] for name, row in languages.items()}, languages)
    for language, parity in costs.items():
        languages[language]["parity"] = parity
    return {
        "format": FORMAT,
        "vocab_size": tokenizer.get_vocab_size(),
        "parity_measure": measured_by,
        "languages": languages,
    }


def _ratios(costs: Mapping[str, float], languages: Iterable[str]) -> dict[str, float]:
    """Costs as multiples of the lowest."""
    own = {language: costs[language] for language in languages}
    return {language: round(cost / min(own.values()), 4) for language, cost in own.items()}


def check_parity(report: Mapping[str, Any], limit: float | None) -> None:
    """The gate of `model.max_tokenizer_parity`.

    Raises:
        StageError: a language is above `limit`; names each with its value.
    """
    above = {
        language: row["parity"]
        for language, row in report["languages"].items()
        if limit is not None and not row["parity"] <= limit
    }
    if above:
        raise StageError(
            f"the tokenizer is too costly for: {', '.join(above)}",
            got=", ".join(f"{language}: parity {parity}" for language, parity in above.items())
            + f" (by {report['parity_measure']})",
            expected=f"at most {limit} times the tokens of the best language (model.max_tokenizer_parity)",
            hint="raise model.vocab_size, add text in these languages, or raise the limit",
        )
