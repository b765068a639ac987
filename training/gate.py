"""The release gate: whether a model with this evaluation may be the champion, the version that is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from sovereign.profile import Evaluation
from training.contamination import UNDETERMINED

LIMITS = ("min_accuracy", "max_bits_per_byte", "max_contamination", "max_memorisation")
"""Keys of the profile's section `evaluation` that are limits. Compared so that NaN misses every one."""


def why_not_champion(evaluation: Mapping[str, Any], limits: Evaluation) -> str | None:
    """The reasons why a model with this evaluation must not be served, or None when it may.

    A limit on something that was not measured, or whose measure is not a number, refuses the model too; one limit for
    all languages covers every language that the model was trained on.

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
    languages = _all_languages(evaluation)
    for language, least in _by_language(limits.min_accuracy, languages):
        if language not in accuracy:
            yield f"accuracy of {language} was not measured, at least {least:.1%} is asked for"
        elif not accuracy[language] >= least:
            found, wanted = _told_apart(accuracy[language], least, percent=True)
            yield f"accuracy of {language} is {found}, at least {wanted} is asked for"
    for language, most in _by_language(limits.max_bits_per_byte, languages):
        if language not in bits:
            yield f"bits per byte of {language} were not measured, at most {most:g} are allowed"
        elif not bits[language] <= most:
            found, wanted = _told_apart(bits[language], most, percent=False)
            yield f"bits per byte of {language} are {found}, at most {wanted} are allowed"


def _all_languages(evaluation: Mapping[str, Any]) -> list[str]:
    """Every language that the model was trained on or measured in."""
    measured = (evaluation[name].get("by_language", {}) for name in ("questions", "bits_per_byte", "contamination"))
    return sorted({*evaluation.get("languages", ()), *chain.from_iterable(measured)} - {UNDETERMINED})


def _by_language(limit: float | Mapping[str, float] | None, languages: Sequence[str]) -> list[tuple[str, float]]:
    """(language, limit); one limit for all is one for each of `languages`, at least for `any language`."""
    if limit is None:
        return []
    if isinstance(limit, Mapping):
        return sorted(limit.items())
    return [(language, limit) for language in languages or ["any language"]]


def _shares(evaluation: Mapping[str, Any], limits: Evaluation) -> Iterator[str]:
    """Reasons that are not by language, and languages that a share leaves out."""
    contamination = evaluation["contamination"]
    measures = {
        "contamination": (contamination["overall"]["share"], limits.max_contamination),
        "memorisation": (evaluation["memorisation"]["trained"]["rate"], limits.max_memorisation),
    }
    for name, (share, most) in measures.items():
        if most is None:
            continue
        if share is None:
            yield f"{name} was not measured, at most {most:.1%} is allowed"
        elif not share <= most:
            found, allowed = _told_apart(share, most, percent=True)
            yield f"{name} is {found}, at most {allowed} is allowed"
    most = limits.max_contamination
    if most is None or contamination["overall"]["share"] is None or "by_language" not in contamination:
        return
    for language in _all_languages(evaluation):
        if contamination["by_language"].get(language, {}).get("share") is None:
            yield f"contamination of {language} was not measured, at most {most:.1%} is allowed"


def _told_apart(found: float, limit: float, *, percent: bool) -> tuple[str, str]:
    """Both as text, with as many digits as it takes to see which is larger."""
    kind, first = ("%", 1) if percent else ("f", 4)
    for digits in range(first, 18):
        one, other = f"{found:.{digits}{kind}}", f"{limit:.{digits}{kind}}"
        if one != other:
            break
    return one, other if percent or digits > first else f"{limit:g}"
