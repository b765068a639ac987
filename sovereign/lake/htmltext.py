"""The main text of a page: its blocks without navigation, notices of the site, and lists of links.

Three signs, of which none needs a language: what the page says of itself (landmarks such as `<main>` and `<nav>`, ARIA
roles, the names that generators give to the parts of a page), links without text around them, and elements that are
not shown. What pages of one source repeat is left to stage `curate` (sovereign/lake/repeats.py). docs/readers.md has
what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from sovereign.lake.htmltree import Block, BlockReader, count_words, is_block, num_chars, parse
from sovereign.lake.records import Unreadable

_NAVIGATION_ROLES = frozenset(
    [
        "navigation",
        "banner",
        "contentinfo",
        "search",
        "complementary",
        "menu",
        "menubar",
        "toolbar",
        "tablist",
        "dialog",
        "alertdialog",
        "directory",
        "doc-toc",
        "doc-pagelist",
        "doc-index",
    ]
)
_NAVIGATION_NAMES = frozenset(
    [
        "nav",
        "navbar",
        "navigation",
        "navheader",
        "navfooter",
        "breadcrumb",
        "breadcrumbs",
        "pagination",
        "pager",
        "paginator",
        "prevnext",
        "postnav",
        "sphinxsidebar",
        "sphinxsidebarwrapper",
        "toc",
        "tableofcontents",
        "catlinks",
        "printfooter",
        "mweditsection",
        "mwjumplink",
        "colophon",
        "skiplink",
        "skiptocontent",
        "screenreadertext",
        "visuallyhidden",
        "sronly",
        "noprint",
        "cookie",
        "cookies",
        "consent",
        "gdpr",
        "share",
        "sharing",
        "sharedaddy",
        "social",
        "related",
        "relatedposts",
        "advert",
        "adverts",
        "advertisement",
        "ads",
        "sponsor",
        "newsletter",
        "subscribe",
        "sitefooter",
        "pagefooter",
        "siteheader",
        "pageheader",
        "sitenav",
        "sidenav",
        "topbar",
        "topnav",
        "linenos",
        "lineno",
        "gutter",
        "rougegutter",
        "linenodiv",
        "headerlink",
        "editlink",
        "lastupdated",
        "sourcelink",
    ]
)
"""Names (`class`, `id`) of elements that are no text of the page, without `-` and `_`."""
_NAVIGATION_WORDS = frozenset(
    [
        "navbar",
        "navigation",
        "breadcrumb",
        "breadcrumbs",
        "pagination",
        "cookie",
        "cookies",
        "consent",
        "gdpr",
        "sharedaddy",
        "advert",
        "advertisement",
        "newsletter",
    ]
)
"""Words of such names."""
_LINKING_NAMES = frozenset(
    ["menu", "sidebar", "header", "footer", "tags", "meta", "links", "byline", "categories", "widget", "aside"]
)
"""Those of elements that are left out where links are most of their text."""
_LINKING_TAGS = frozenset({"aside", "footer"})
_PAGING = frozenset({"prev", "next", "up", "contents", "first", "last", "start"})
"""Relations (`rel`) of links between the pages of a document."""
_MAX_PAGING_CHARS = 60
"""Outside links, in a block of such links."""
_OWN_TEXT = frozenset({"main", "article", "section", "blockquote", "figure"})
_MARKS_OF_PLACE = frozenset({"", "¶", "#", "§", "🔗", "⚓", "∞", "\u200b"})
"""What links to a heading's own place show."""
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_WORD_OF_NAME = re.compile(r"[^\W_]+")
_MIN_MAIN_SHARE = 0.4
"""Of the characters outside links, for an element to be taken as the page's main part at its word."""
_LINKED = 0.8
"""Share of a block's characters in links from which it is nothing but links."""
_FLOWING = frozenset({"p", "td", "th", "dd", "dt", "li", "tr", "figcaption", "caption", "blockquote"})
"""Elements in which a single link may be text."""


@dataclass(frozen=True)
class MainText:
    """What a page says, and how much of it was left out."""

    text: str
    num_words: int
    num_words_left_out: int
    """Of what browsers show but `text` lacks."""


def main_text(page: str) -> MainText:
    """The main text of a page: blocks with a blank line between them, lines of a list or table without.

    Raises:
        Unreadable: it cannot be parsed, or has no text.
    """
    root = parse(page)
    left_out = _clear_what_is_no_text(root)
    survey = _Survey(root)
    navigation = set(_navigation(root, survey))
    places = _Places(_mains(root, navigation, survey), navigation)
    blocks = BlockReader(root).read()
    own = [block for block in blocks if places.is_own(block.element)]
    kept = _without_links(own) or _without_links(blocks)
    if not kept:
        raise Unreadable("page without text")
    chosen = set(map(id, kept))
    left_out += sum(count_words(block.text) for block in blocks if id(block) not in chosen)
    return MainText(_join(kept), sum(count_words(block.text) for block in kept), left_out)


def _clear_what_is_no_text(root: Any) -> int:
    """Empty the elements that are not shown, and links that belong to the page and not to its text; their words."""
    found = [one for one in root.iter() if one is not root and (_is_hidden(one) or _is_sign(one))]
    num_left_out = 0
    for element in found:
        if not _is_hidden(element):
            num_left_out += count_words("".join(element.itertext()))
        element.clear(keep_tail=True)
    return num_left_out


def _is_hidden(element: Any) -> bool:
    style = element.get("style")
    return (
        element.get("hidden", "until-found") != "until-found"
        or element.get("aria-hidden") == "true"
        or bool(style and _HIDDEN_STYLE.search(style))
    )


def _is_sign(element: Any) -> bool:
    """Whether an inline element is a link to its own place, or to edit it."""
    if is_block(element):
        return False
    if element.tag == "a":
        target = element.get("href") or ""
        if target.startswith("#") and "".join(element.itertext()).strip() in _MARKS_OF_PLACE:
            return True
    return bool(_names(element) & _NAVIGATION_NAMES)


def _names(element: Any) -> set[str]:
    """The names of an element without `-` and `_`, and those of their words that are `_NAVIGATION_WORDS`."""
    given = f"{element.get('class') or ''} {element.get('id') or ''}".lower().split()
    words = [_WORD_OF_NAME.findall(name) for name in given[:20]]
    return {"".join(name) for name in words} | {word for name in words for word in name if word in _NAVIGATION_WORDS}


class _Survey:
    """How much text the elements of a page have, in one pass: hostile pages nest thousands of elements."""

    def __init__(self, root: Any) -> None:
        self._chars: dict[Any, tuple[int, int]] = {}
        self._inside: set[Any] = set()
        sums, num_own, num_links = [[0, 0]], 0, 0
        for event, element in etree.iterwalk(root, events=("start", "end")):
            is_own = element.tag in _OWN_TEXT or element.get("role") == "main"
            if event == "start":
                if num_own:
                    self._inside.add(element)
                num_own += is_own
                num_links += element.tag == "a"
                size = num_chars(element.text or "")
                sums.append([size, size if num_links else 0])
            else:
                num_own -= is_own
                num_links -= element.tag == "a"
                whole, linked = sums.pop()
                self._chars[element] = (whole, linked)
                tail = num_chars(element.tail or "") if element is not root else 0
                sums[-1][0] += whole + tail
                sums[-1][1] += linked + (tail if num_links else 0)

    def is_inside(self, element: Any) -> bool:
        """Whether the element is in an article, a section, or the like."""
        return element in self._inside

    def chars(self, element: Any) -> int:
        """Characters of its text, without spaces."""
        return self._chars[element][0]

    def unlinked_chars(self, element: Any) -> int:
        """Those that are not in links."""
        whole, linked = self._chars[element]
        return whole - linked

    def is_linking(self, element: Any) -> bool:
        """Whether at least half of the text is in links."""
        whole, linked = self._chars[element]
        return linked > 0 and 2 * linked >= whole


def _mains(root: Any, navigation: set[Any], survey: _Survey) -> set[Any]:
    """The elements that are the page's main part, if it names any that have a good share of its text."""
    whole = survey.unlinked_chars(root) - sum(map(survey.unlinked_chars, _outermost(navigation)))
    for name in ("main", "article"):
        outer = _outermost({one for one in root.iter() if one.tag == name or one.get("role") == name})
        if outer and sum(map(survey.unlinked_chars, outer)) >= _MIN_MAIN_SHARE * whole:
            return outer
    return set()


def _outermost(elements: set[Any]) -> set[Any]:
    return {one for one in elements if not any(parent in elements for parent in one.iterancestors())}


def _navigation(root: Any, survey: _Survey) -> Iterator[Any]:
    """The block elements that are no text of the page, by what they are called."""
    half = survey.chars(root) / 2
    for element in root.iter():
        if element is root:
            continue
        if element.tag == "a" and _PAGING & set((element.get("rel") or "").lower().split()):
            block = next(one for one in element.iterancestors() if one is root or is_block(one))
            if block is not root and survey.unlinked_chars(block) <= _MAX_PAGING_CHARS:
                yield block
        elif survey.chars(element) > half and element.tag != "nav":
            continue
        elif is_block(element) and _is_navigation(element, survey):
            yield element


def _is_navigation(element: Any, survey: _Survey) -> bool:
    tag, role, names = element.tag, element.get("role"), _names(element)
    if tag in ("nav", "search") or role in _NAVIGATION_ROLES or names & _NAVIGATION_NAMES:
        return True
    if (tag == "footer" or "footer" in names or tag == "aside") and not survey.is_inside(element):
        return True
    if tag == "header" or "header" in names:
        return not _has_title(element) and (survey.is_linking(element) or not survey.is_inside(element))
    return (tag in _LINKING_TAGS or bool(names & _LINKING_NAMES)) and survey.is_linking(element)


def _has_title(element: Any) -> bool:
    """Whether there is a heading of the page itself in it: one that leads nowhere else."""
    return any(title.find(".//a") is None for title in element.iter("h1", "h2"))


class _Places:
    """Which elements are in the page's own part."""

    def __init__(self, mains: set[Any], navigation: set[Any]) -> None:
        self._mains, self._navigation = mains, navigation
        self._known: dict[Any, bool] = {}

    def is_own(self, element: Any) -> bool:
        """Whether the element is in a main part and in no navigation."""
        path = []
        place, found = element, None
        while place is not None and (found := self._known.get(place)) is None:
            path.append(place)
            place = place.getparent()
        own = not self._mains if found is None else found
        for place in reversed(path):
            own = (own or place in self._mains) and place not in self._navigation
            self._known[place] = own
        return own


def _without_links(blocks: list[Block]) -> list[Block]:
    """The blocks without rows of links, and without headings that have nothing else below them."""
    linked = [bool(block.linked_chars) and block.linked_chars >= _LINKED * num_chars(block.text) for block in blocks]
    gone = []
    for place, block in enumerate(blocks):
        beside = (place > 0 and linked[place - 1]) or (place + 1 < len(blocks) and linked[place + 1])
        gone.append(linked[place] and not block.heading and (beside or block.element.tag not in _FLOWING))
    for place, block in enumerate(blocks):
        if block.heading > 1 and place + 1 < len(blocks) and gone[place + 1]:
            below = place + 1
            while below < len(blocks) and gone[below]:
                below += 1
            gone[place] = below == len(blocks) or 0 < blocks[below].heading <= block.heading
    return [block for block, is_gone in zip(blocks, gone, strict=True) if not is_gone]


def _join(blocks: list[Block]) -> str:
    lines: list[str] = []
    before: Block | None = None
    for block in blocks:
        together = before is not None and _is_line(before) and _is_line(block)
        lines += [block.bullet + block.text] if together or before is None else ["", block.bullet + block.text]
        before = block
    return "\n".join(lines)


def _is_line(block: Block) -> bool:
    """Whether the block is a line of a list or table, to be followed by the next without a blank line."""
    return bool(block.bullet) or block.element.tag in ("tr", "td", "th", "dt", "dd")
