"""SPDX identifiers for licences as people write them: `CC BY 4.0`, `GPLv3`, `Apache License 2.0`, an address."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 3
_MAX_CHARS = 200
_CLOSE = 0.8
# A row is a pattern and what it becomes; earlier rows hold first.
_WORDS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"https?://|www\.|\.html?\b|\.txt\b|legalcode|deed(\.\w+)?|publicdomain", " "),
        (r"creative ?commons(\.org)?", "cc"),
        (r"\bcc zero|\bzero\b", "cc 0"),
        (r"attribution", "by"),
        (r"share[ -]?alike", "sa"),
        (r"non[ -]?commercial", "nc"),
        (r"no[ -]?deriv(ative)?s?( works)?", "nd"),
        (r"(gnu )?affero( general)? public", "agpl"),
        (r"(gnu )?(lesser|library) general public", "lgpl"),
        (r"(gnu )?general public", "gpl"),
        (r"(gnu )?free documentation", "gfdl"),
        (r"mozilla public", "mpl"),
        (r"eclipse public", "epl"),
        (r"european union public", "eupl"),
        (r"open government", "ogl"),
        (r"licence ouverte|open licen[cs]e etalab", "etalab"),
        (r"open database", "odbl"),
        (r"open data commons by", "odc by"),
        (r"datenlizenz deutschland", "dl de"),
        (r"(new|modified|revised) bsd", "bsd 3 clause"),
        (r"(simplified|free) bsd", "bsd 2 clause"),
        (r"^ (original )?bsd(?= $| licen[cs]e $)", " bsd clause"),
        (r"\+| or (any )?later", " or later "),
        (r"\b(v|ver|version)[ .]?(?=\d)", " "),
        (r"(?<=[a-z])v(?=\d)", " "),
        (r"(\d)[.-]0(?![\d.])", r"\1"),
        (r"\b(the|gnu|licen[cs]es?|lizenz|international|unported|universal|generic|software|public|org|v)\b", " "),
    )
)
_FREE = re.compile(r"(the )?public[ -]?domain|pd|gemeinfrei|domaine public|dominio p[uú]blico", re.IGNORECASE)
_OPERATORS = re.compile(r"[()]|\b(?:AND|OR|WITH)\b")


def suggest(expression: str, identifiers: Iterable[str]) -> str:
    """What to write instead of a licence that is no SPDX expression, as a sentence's end.

    Args:
        identifiers: those of SPDX.
    """
    known = {one: _tokens(one) for one in identifiers}
    found: list[str] = []
    for part in _OPERATORS.split(expression[:_MAX_CHARS]):
        name = part.strip()
        if _FREE.fullmatch(name):
            return "CC0-1.0 where the owner waived all rights, else terms as LicenseRef-… in corpus.rights.licences"
        if name and name not in known:
            found += [" or ".join(closest)] if (closest := _closest(name, known)) else []
    if not found:
        return "an identifier of https://spdx.org/licenses, or terms as LicenseRef-… in corpus.rights.licences"
    return f"{' and '.join(dict.fromkeys(found[:_MOST]))}, as SPDX spells it"


def _tokens(name: str) -> tuple[str, ...]:
    text = f" {name.lower()} "
    for pattern, word in _WORDS:
        text = pattern.sub(word, text)
    return tuple(re.findall(r"[a-z]+|\d+(?:\.\d+)*", text))


def _closest(name: str, known: dict[str, tuple[str, ...]]) -> list[str]:
    """Those that say all that the name says and least beyond it, the newest first; else those that look like it."""
    wanted = _tokens(name)
    if not wanted:
        return []
    extra = {
        one: len(tokens) - len(wanted)
        for one, tokens in known.items()
        if tokens and tokens[0] == wanted[0] and _is_within(wanted, tokens)
    }
    least = min(extra.values(), default=0)
    if extra:
        best = [one for one, number in extra.items() if number == least]
        return sorted(best, key=lambda one: (_version(known[one]), one), reverse=True)[:_MOST]
    spelled = {"".join(tokens): one for one, tokens in known.items()}
    return [spelled[one] for one in get_close_matches("".join(wanted), spelled, _MOST, _CLOSE)]


def _is_within(wanted: tuple[str, ...], tokens: tuple[str, ...]) -> bool:
    rest = iter(tokens)
    return all(token in rest for token in wanted)


def _version(tokens: tuple[str, ...]) -> tuple[int, ...]:
    numbers = [token for token in tokens if token[0].isdigit()]
    return tuple(map(int, numbers[-1].split("."))) if numbers else ()
