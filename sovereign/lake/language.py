"""Language identification, offline: the language a text is in, and whether that contradicts what its source says.

The model comes in the wheel of py3langid: naive Bayes over byte n-grams, 139 languages. docs/languages.md has its
accuracy by language, and that of others.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sovereign.profile_cleaning import LanguageCheck

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SAMPLE_CHARS = 1_000
"""As much is looked at, from the middle of a text."""
NO_LANGUAGE = "zxx"
"""What the model calls text without language: tables, code."""

# ISO 639-3: languages that one tag can stand for, so that they do not contradict each other.
_MACROLANGUAGES = {
    "ar": {"ar", "arz", "ary"},
    "fa": {"fa", "prs", "pes"},
    "ff": {"ff", "fuv"},
    "gn": {"gn", "gug"},
    "kok": {"kok", "gom"},
    "ku": {"ku", "kmr", "ckb", "sdh"},
    "lv": {"lv", "ltg"},
    "ms": {"ms", "id", "zsm"},
    "no": {"no", "nb", "nn"},
    "sh": {"sh", "bs", "hr", "sr", "cnr"},
    "tl": {"tl", "fil"},
    "uz": {"uz", "uzs"},
    "zh": {"zh", "yue", "wuu", "cmn"},
}
_MACROLANGUAGE = {member: macro for macro, members in _MACROLANGUAGES.items() for member in members}
_ALIASES = {"ki": "kik"}
_SCRIPTS = {"sh", "zh"}
"""Languages that the model knows in all their scripts."""


@cache
def _model() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second, and not needed for short documents

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def known_languages() -> frozenset[str]:
    """Languages, or the macrolanguages that they belong to, that the model can tell."""
    return frozenset(primary(label) for label in _model().nb_classes) - {NO_LANGUAGE}


def primary(tag: str) -> str:
    """The language of a BCP 47 tag without script and region; its macrolanguage where it has one."""
    language = tag.partition("-")[0]
    return _MACROLANGUAGE.get(language, _ALIASES.get(language, language))


def identify(text: str) -> tuple[str, float]:
    """The most probable language (`primary`) of `text`, and its probability."""
    start = max(0, (len(text) - SAMPLE_CHARS) // 2)
    probabilities: dict[str, float] = {}
    for label, probability in _model().rank(text[start : start + SAMPLE_CHARS]):
        name = primary(label)
        probabilities[name] = probabilities.get(name, 0.0) + float(probability)
    return max(probabilities.items(), key=lambda item: item[1])


def contradiction(text: str, language: str, check: LanguageCheck) -> str | None:
    """The language that `text` is in, where that is surely not the BCP 47 tag `language`; else None.

    Nothing is said of short texts, of languages that the model does not know, and of tags that name a script.
    """
    if len(text) < check.min_chars or primary(language) not in known_languages():
        return None
    if any(len(part) == 4 for part in language.split("-")[1:]) and primary(language) not in _SCRIPTS:
        return None
    found, confidence = identify(text)
    return found if found not in (primary(language), NO_LANGUAGE) and confidence >= check.confidence else None
