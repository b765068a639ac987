"""Text of wiki markup (parsed by mwparserfromhell): no files, categories, templates, tables, references, switches.

wiki.json, made by tools/wiki_tables.py, has MediaWiki's names of these in each language.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from typing import Any

from sovereign.lake.records import Unreadable

_MAX_MARKUP = 2 * 2**20
"""Characters of a wiki page; MediaWiki itself takes no more bytes, https://www.mediawiki.org/wiki/Manual:$wgMaxArticleSize."""
_MAX_DEPTH = 100
"""Each bracket that is left open costs the parser another way through the page."""
_BRACKET = re.compile(r"\[\[|\]\]|\{\{|\}\}|</?([a-z]+)(?:[^<>]*+>)?", re.IGNORECASE)
_MAX_AGAIN = 2**23
"""Characters that the parser may go through again for tags without `>`, each to the page's end; some 4 s of a core."""
_OPENED_BY = str.maketrans("]}", "[{")
_UNCLOSED_TAGS = ("br", "hr", "li", "p", "dt", "dd", "tr", "td", "th", "wbr")
_NO_TEXT_TAGS = frozenset(
    [
        "ref",
        "references",
        "table",
        "gallery",
        "math",
        "chem",
        "ce",
        "timeline",
        "score",
        "syntaxhighlight",
        "source",
        "graph",
        "hiero",
        "imagemap",
        "mapframe",
        "maplink",
        "templatedata",
        "templatestyles",
        "style",
        "script",
        "inputbox",
        "categorytree",
        "indicator",
        "section",
    ]
)
_BLOCK_TAGS = frozenset(("p", "div", "blockquote", "center"))
"""Words before and after one are not one word."""
_SWITCH = re.compile(r"__[^\s_](?:[^\n]{0,80}?[^\s_])?__")
_VARIANTS = re.compile(r"-\{([^{}]{0,5000})\}-")
"""What each script or country writes: https://www.mediawiki.org/wiki/Writing_systems/Syntax."""
_MARKS = str.maketrans("_", " ", "\u200e\u200f\u202a\u202b\u202c\ufeff")
_MAX_NESTED = 5


def _is_hard(markup: str) -> bool:
    """Whether too many links, templates or tags are open at one place, or too many tags have no end."""
    depths: Counter[str] = Counter()
    deepest = again = 0
    for found in _BRACKET.finditer(markup):
        bracket, tag = found[0][:2], (found[1] or "").lower()
        if tag and not found[0].endswith(">"):
            again += len(markup) - found.start()
            continue
        kind = "<" if tag else bracket.translate(_OPENED_BY)
        if tag not in _UNCLOSED_TAGS and not found[0].endswith("/>"):
            depths[kind] = max(0, depths[kind] + (-1 if bracket in ("]]", "}}", "</") else 1))
            deepest = max(deepest, depths[kind])
    return deepest > _MAX_DEPTH or again > _MAX_AGAIN


@cache
def _names() -> dict[str, Any]:
    names: dict[str, Any] = json.loads(files("sovereign.lake").joinpath("wiki.json").read_text("utf-8"))
    return names


@cache
def link_prefixes(language: str) -> frozenset[str]:
    """What files and categories are called in links of a wiki in a language (BCP 47), in lower case."""
    known = _names()["prefixes"]
    tags = (language.lower(), language.lower().partition("-")[0], "en")
    return frozenset(name for tag in tags for name in known.get(tag, ()))


def redirects(markup: str) -> bool:
    """Whether a page only leads to another, in MediaWiki's word for that in any language."""
    word = re.match(r"\s*(#[^\s\[:]+(?: [^\s\[:]+)?)\s*:?\s*\[\[", markup)
    return word is not None and word[1].casefold() in _names()["redirects"]


def strip_markup(markup: str, prefixes: frozenset[str], language: str) -> str:
    """Text of wiki markup.

    Args:
        markup: of one page.
        prefixes: of links to files and categories, in lower case.
        language: BCP 47 tag of the wiki; tells which of a text's variants is taken.

    Raises:
        Unreadable: it is too large, or cannot be parsed.
    """
    import mwparserfromhell

    if len(markup) > _MAX_MARKUP:
        raise Unreadable("document too large")
    if _is_hard(markup):
        raise Unreadable("wiki page that cannot be parsed")

    try:
        code = mwparserfromhell.parse(markup)
        _drop(code, prefixes)
        text: str = code.strip_code(normalize=True, collapse=True)
    except Exception as error:  # nested without end, markup ends anywhere in the parser, with any error
        raise Unreadable("wiki page that cannot be parsed") from error
    for _ in range(_MAX_NESTED):
        text, number = _VARIANTS.subn(lambda found: _variant(found[1], language), text)
        if not number:
            break
    return text.strip()


def _drop(code: Any, prefixes: frozenset[str]) -> None:
    """Take out what is no text, here and inside of what stays, in one pass."""
    from mwparserfromhell.nodes import Tag, Text, Wikilink

    kept = []
    for node in code.nodes:
        tag = str(node.tag).strip().lower() if isinstance(node, Tag) else ""
        if tag in _NO_TEXT_TAGS or (isinstance(node, Wikilink) and _is_no_text(node, prefixes)):
            continue
        if isinstance(node, Text):
            node.value = _SWITCH.sub(_without_switch, node.value)
        kept += (
            [Text("\n")] if tag in ("br", "hr") else [Text("\n"), node, Text("\n")] if tag in _BLOCK_TAGS else [node]
        )
        if tag != "nowiki":
            for child in node.__children__():
                _drop(child, prefixes)
    code.nodes = kept


def _is_no_text(link: Any, prefixes: frozenset[str]) -> bool:
    """Whether a link shows a file, puts the page into a category, or leads to the same page in another language."""
    title = str(link.title).translate(_MARKS).strip()
    if title.startswith(":"):  # a link to the file, category or wiki, which is text
        if link.text is None:
            link.title = title[1:]
        return False
    prefix, colon, _ = title.partition(":")
    prefix = " ".join(prefix.casefold().split())
    return bool(colon) and (prefix in prefixes or prefix in _languages())


@cache
def _languages() -> frozenset[str]:
    return frozenset(_names()["languages"])


@cache
def _switches() -> frozenset[str]:
    return frozenset(_names()["switches"])


def _without_switch(found: re.Match[str]) -> str:
    return "" if found[0].casefold() in _switches() else found[0]


def _variant(inside: str, language: str) -> str:
    """What a mark of variants shows to readers of `language`."""
    flags, bar, rest = inside.partition("|")
    names = {flag.strip() for flag in flags.split(";")}
    if bar:
        if names & {"H", "T", "-", "N", "D"}:  # rules for the page, a title, or a rule that is shown as text
            return ""
        if "R" in names or not names & {"A", "", "S", "+"}:
            return rest
        inside = rest
    choices: dict[str, str] = {}
    for rule in inside.split(";"):
        name, colon, text = rule.rpartition("=>")[2].partition(":")
        if colon and re.fullmatch(r"\s*[a-z]{2,3}(-[a-z]{2,4}){0,2}\s*", name):
            choices[name.strip()] = text.strip()
    if not choices:
        return inside
    return next((choices[name] for name in _preferred(language) if name in choices), next(iter(choices.values())))


def _preferred(language: str) -> tuple[str, ...]:
    tag = language.lower()
    if tag.startswith("zh"):
        if any(part in ("hant", "tw", "hk", "mo") for part in tag.split("-")):
            return (tag, "zh-hant", "zh-tw", "zh-hk", "zh-mo")
        return (tag, "zh-hans", "zh-cn", "zh-sg", "zh-my", "zh")
    if tag.startswith("sr"):
        return ("sr-el", "sr-latn") if "latn" in tag else ("sr-ec", "sr-cyrl")
    return (tag,)
