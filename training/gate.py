"""The release gate: whether a model with this evaluation may be the champion, the version that is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sovereign.profile import Evaluation

LIMITS = ("min_accuracy", "max_bits_per_byte", "max_contamination", "max_memorisation")
"""Keys of the profile's section `evaluation` that are limits. Compared so that NaN misses every one."""


def why_not_champion(evaluation: Mapping[str, Any], limits: Evaluation) -> str | None:
    """The reasons why a model with this evaluation must not be served, or None when it may.

    A limit on something that was not measured, or whose measure is not a number, refuses the model too.

    Args:
        evaluation: content of evaluation.json.
        limits: the profile's section.
    """
    reasons = [*_languages(evaluation, limits), *_shares(evaluation, limits)]
    return "; ".join(reasons) or None


def _languages(evaluation: Mapping[str, Any], limits: Evaluation) -> Iterator[str]:
    """Reasons by language."""
    accuracy = {
        language: scores["heldout"]["accuracy"]
        for language, scores in evaluation["questions"]["by_language"].items()
        if "heldout" in scores
    }
    bits = {language: row["model"] for language, row in evaluation["bits_per_byte"]["by_language"].items()}
    for language, least in _by_language(limits.min_accuracy, accuracy):
        if language not in accuracy:
            yield f"accuracy of {language} was not measured, at least {least:.1%} is asked for"
        elif not accuracy[language] >= least:
            yield f"accuracy of {language} is {accuracy[language]:.1%}, at least {least:.1%} is asked for"
    for language, most in _by_language(limits.max_bits_per_byte, bits):
        if language not in bits:
            yield f"bits per byte of {language} were not measured, at most {most:g} are allowed"
        elif not bits[language] <= most:
            yield f"bits per byte of {language} are {bits[language]:.4f}, at most {most:g} are allowed"


def _by_language(limit: float | Mapping[str, float] | None, measured: Mapping[str, float]) -> list[tuple[str, float]]:
    """(language, limit); one limit for all is one for each language that was measured, at least for `any language`."""
    if limit is None:
        return []
    if isinstance(limit, Mapping):
        return sorted(limit.items())
    return [(language, limit) for language in sorted(measured) or ["any language"]]


def _shares(evaluation: Mapping[str, Any], limits: Evaluation) -> Iterator[str]:
    """Reasons that are not by language."""
    measures = {
        "contamination": (evaluation["contamination"]["overall"]["share"], limits.max_contamination),
        "memorisation": (evaluation["memorisation"]["trained"]["rate"], limits.max_memorisation),
    }
    for name, (share, most) in measures.items():
        if most is not None and share is None:
            yield f"{name} was not measured, at most {most:.1%} is allowed"
        elif most is not None and not share <= most:
            yield f"{name} is {share:.1%}, at most {most:.1%} is allowed"
