"""Quality rules of Gopher, C4, FineWeb and FineWeb2: a number for each rule, and the first whose limit is passed.

Limits and their sources: `QualityRules` in sovereign/profile_cleaning.py. All rules take time linear in the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from sovereign.lake.words import Words
from sovereign.profile_cleaning import Quality, QualityRules

SHORT_LINE_CHARS = 30
_BULLETS = ("•", "-", "*", "·", "‣", "◦", "–", "・")
_ELLIPSES = ("...", "…", "。。。")
_CLOSING = "\"'”’»」』）)]*_ \t"
_TERMINAL = (
    ".",
    "!",
    "?",
    "…",
    "。",
    "！",
    "？",
    "｡",
    "؟",
    "۔",
    "।",
    "॥",
    "།",
    "༎",
    "።",
    "፧",
    "។",
    "៕",
    "။",
    "၊",
    "։",
    "՞",
    "׃",
    ";",
    "؛",
)
_SHARES = 4
"""Decimals of a quality."""


def rules_for(quality: Quality, language: str) -> QualityRules:
    """The limits of one language (BCP 47): those given for its tag or its primary subtag, else the general ones."""
    own = quality.languages.get(language) or quality.languages.get(language.partition("-")[0])
    return (
        quality
        if own is None
        else quality.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
    )


def assess(text: str, language: str, quality: Quality) -> tuple[float | None, str]:
    """The quality of a text, and the rule that it fails, or an empty text.

    The quality is the mean over all rules of the distance from the limit: 0 at it or beyond, 1 as far as can be. It is
    None for a text with fewer words than `measured_from_words`; such a text fails nothing.
    """
    rules = rules_for(quality, language)
    words = Words(text, language.partition("-")[0])
    if words.count < max(1, rules.measured_from_words):
        return None, ""
    metrics = measure(words, rules)
    margins: list[float] = []
    failed = ""
    for name in type(rules).model_fields:
        kind, _, metric = name.partition("_")
        limit = getattr(rules, name)
        if kind not in ("min", "max") or limit is None or metric not in metrics:
            continue
        value = metrics[metric]
        is_right = value <= limit if kind == "max" else value >= limit
        failed = failed or ("" if is_right else metric)
        low, high = (value, limit) if kind == "max" else (limit, value)
        margins.append(max(0.0, 1 - low / high) if high else float(low == high == 0))
    return round(sum(margins) / len(margins), _SHARES) if margins else None, failed


def measure(words: Words, rules: QualityRules) -> dict[str, float]:
    """Every metric, by the name that its limits have without `min_` and `max_`."""
    text, num_words = words.text, words.count
    lines = [line for line in text.split("\n") if line.strip()]
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    metrics = {
        "hashes_per_word": text.count("#") / num_words,
        "ellipses_per_word": (text.count("...") + text.count("…")) / num_words,
        "bullet_lines": _share(line.lstrip().startswith(_BULLETS) for line in lines),
        "ellipsis_lines": _share(line.rstrip().endswith(_ELLIPSES) for line in lines),
        "punctuated_lines": _share(line.rstrip(_CLOSING).endswith(_TERMINAL) for line in lines),
        "short_lines": _share(len(line) <= SHORT_LINE_CHARS for line in lines),
        "lines_per_word": text.count("\n") / num_words,
        "alphabetic_words": words.with_letter / len(words.lengths),
        "forbidden_phrases": float(any(phrase in text.casefold() for phrase in rules.forbidden_phrases)),
    }
    metrics["duplicate_lines"], metrics["duplicate_line_chars"] = _duplicates(lines)
    metrics["duplicate_paragraphs"], metrics["duplicate_paragraph_chars"] = _duplicates(paragraphs)
    if words.units_per_word == 1:
        metrics["mean_word_length"] = float(words.lengths.mean())
    if rules.stop_words:
        metrics["stop_words"] = float(len(set(rules.stop_words).intersection(text.casefold().split())))
    repeats = 1.0  # where no n-gram repeats, no longer one does
    for length in (2, 3, 4):
        repeats = metrics[f"top_{length}gram"] = top_ngram(words, length) if repeats else 0.0
    for length in range(5, 11):
        repeats = metrics[f"duplicate_{length}grams"] = duplicate_ngrams(words, length) if repeats else 0.0
    return metrics


def top_ngram(words: Words, length: int) -> float:
    """Share of the characters that the most frequent n-gram of `length` words has; 0 where none repeats."""
    hashes, chars = words.ngrams(length * words.units_per_word)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    if not len(counts) or counts.max() < 2:
        return 0.0
    most = counts == counts.max()
    return min(1.0, float((counts[most] * chars[first[most]]).max() / words.lengths.sum()))


def duplicate_ngrams(words: Words, length: int) -> float:
    """Share of the characters that stand in an n-gram of `length` words which stood in the text before."""
    units = length * words.units_per_word
    hashes, _ = words.ngrams(units)
    is_again = np.ones(len(hashes), bool)
    is_again[np.unique(hashes, return_index=True)[1]] = False
    depth = np.zeros(len(words.lengths) + 1, np.int64)
    again = np.flatnonzero(is_again)
    depth[again] += 1
    depth[again + units] -= 1  # no two n-grams begin at one place
    return float(words.lengths[np.cumsum(depth)[:-1] > 0].sum() / words.lengths.sum())


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _duplicates(parts: list[str]) -> tuple[float, float]:
    """Share of the parts that stood before, and of their characters."""
    counts = Counter(parts)
    total = sum(map(len, parts))
    again = sum(count - 1 for count in counts.values())
    chars = sum((count - 1) * len(part) for part, count in counts.items())
    return (again / len(parts), chars / total) if total else (0.0, 0.0)
