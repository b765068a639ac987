"""A page as blocks of text: paragraphs, headings, list items, rows of tables, code. No visible text is lost here.

Which blocks are the page's own text is decided in sovereign/lake/htmltext.py. Inline elements neither split words nor
join them: `<br>` ends a line, `<wbr>` is nothing, the reading of `<ruby>` stands in parentheses after its base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from sovereign.lake.records import Unreadable

_NO_TEXT = (
    "script", "style", "template", "noscript", "head", "iframe", "object", "embed", "canvas", "audio", "video", "svg",
    "select", "datalist", "button", "input", "textarea", "progress", "meter", "map", "annotation", "annotation-xml",
    "dialog", "rp",
)  # fmt: skip
"""What browsers show no text of, and controls."""
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "frameset",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "listing",
        "main",
        "menu",
        "nav",
        "noframes",
        "ol",
        "optgroup",
        "option",
        "p",
        "plaintext",
        "pre",
        "search",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "title",
        "tr",
        "ul",
        "xmp",
    ]
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PREFORMATTED = frozenset({"pre", "listing", "xmp", "plaintext"})
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_BLOCK_STYLE = re.compile(r"display\s*:\s*(?:block|flex|grid|list-item|table)", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f]+")
_AROUND_BREAK = re.compile(r" *\n *")
_SOFT_HYPHEN = "\u00ad"
_SUPERSCRIPTS = str.maketrans("0123456789+-−()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾")
_RAISED = re.compile(r"\s*[0-9+−()-]+\s*")
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")
_MAX_CELL_CHARS = 1000
"""A longer cell belongs to a table that places the parts of a page."""
_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(slots=True)
class Block:
    """Text between two breaks of blocks."""

    element: Any
    """The innermost block element around it."""
    text: str
    linked_chars: int = 0
    """How many of its characters are in links; spaces are not counted."""
    bullet: str = ""
    heading: int = 0
    """Level, 1 to 6."""


def parse(page: str) -> Any:
    """The body of a page, without elements that show no text.

    Raises:
        Unreadable: it cannot be parsed, or its elements are nested too deeply.
    """
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        tree = etree.fromstring(page.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        raise Unreadable("page without text") from error
    if tree is None:
        raise Unreadable("page without text")
    if any(entry.level == etree.ErrorLevels.FATAL for entry in parser.error_log):
        raise Unreadable("page that cannot be parsed")  # nested deeper than the parser goes, which drops the rest
    etree.strip_elements(tree, *_NO_TEXT, with_tail=False)
    body = tree.find("body")
    return tree if body is None else body


def is_block(element: Any) -> bool:
    """Whether a browser breaks the line before and after the element."""
    return element.tag in _BLOCKS or bool((style := element.get("style")) and _BLOCK_STYLE.search(style))


@dataclass(slots=True)
class _List:
    ordered: bool
    number: int


@dataclass(slots=True)
class _Row:
    start: int
    ends: list[int] = field(default_factory=list)
    """Number of blocks at the end of each cell."""


class BlockReader:
    """Reads a tree into blocks."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._pieces: list[str] = []
        self._linked_chars = 0
        self._blocks: list[Block] = []
        self._elements: list[Any] = [root]  # the block elements around the place
        self._num_links = self._num_pre = 0
        self._bullet = ""
        self._rows: list[_Row] = []
        self._lists: list[_List] = []

    def read(self) -> list[Block]:
        """All blocks, in the order of the page."""
        for event, element in etree.iterwalk(self._root, events=("start", "end")):
            if event == "start":
                self._start_block(element) if is_block(element) else self._start_inline(element)
            else:
                self._end_block(element) if is_block(element) else self._end_inline(element)
                if element is not self._root:
                    self._add(element.tail)
        self._flush()
        return self._blocks

    def _start_inline(self, element: Any) -> None:
        tag, text = element.tag, element.text
        if tag == "br":
            self._pieces.append("\n")
        elif tag == "a":
            self._num_links += 1
        elif tag == "rt":
            self._pieces.append("(")
        elif tag == "img" or "-" in tag:
            self._pieces.append(" ")
        elif tag == "sup" and text and _RAISED.fullmatch(text):
            text = text.strip().translate(_SUPERSCRIPTS)  # 10² is not 102
        self._add(text)

    def _end_inline(self, element: Any) -> None:
        if element.tag == "a":
            self._num_links -= 1
        elif element.tag == "rt":
            self._pieces.append(")")
        elif "-" in element.tag:
            self._pieces.append(" ")

    def _start_block(self, element: Any) -> None:
        self._flush()
        self._elements.append(element)
        tag = element.tag
        if tag in _PREFORMATTED:
            self._num_pre += 1
        elif tag == "tr":
            self._rows.append(_Row(len(self._blocks)))
        elif tag in _LISTS:
            self._lists.append(_List(tag == "ol", _number(element.get("start"), 1)))
        elif tag == "li":
            self._start_item(element)
        self._add(element.text)

    def _end_block(self, element: Any) -> None:
        self._flush()
        self._elements.pop()
        tag = element.tag
        if tag in _PREFORMATTED:
            self._num_pre -= 1
        elif tag == "tr":
            self._end_row(element)
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].ends.append(len(self._blocks))
        elif tag in _LISTS:
            self._lists.pop()
        elif tag == "li":
            self._bullet = ""

    def _start_item(self, element: Any) -> None:
        self._bullet = "- "
        if self._lists and self._lists[-1].ordered:
            number = _number(element.get("value"), self._lists[-1].number)
            self._lists[-1].number = number + 1
            self._bullet = f"{number}. "

    def _end_row(self, element: Any) -> None:
        """Make one block of a row whose cells have one short block each, at most."""
        row = self._rows.pop()
        cells = [self._blocks[start:end] for start, end in zip([row.start, *row.ends], row.ends, strict=False)]
        blocks = self._blocks[row.start :]
        if len(cells) < 2 or not blocks or row.ends[-1] < len(self._blocks):
            return
        if any(len(cell) > 1 for cell in cells) or any(len(one.text) > _MAX_CELL_CHARS for one in blocks):
            return
        text = " | ".join(" ".join(cell[0].text.split("\n")) if cell else "" for cell in cells)
        self._blocks[row.start :] = [Block(element, text, sum(one.linked_chars for one in blocks))]

    def _add(self, text: str | None) -> None:
        if not text:
            return
        text = text.replace(_SOFT_HYPHEN, "")
        self._pieces.append(text if self._num_pre else _SPACES.sub(" ", text))
        if self._num_links:
            self._linked_chars += num_chars(text)

    def _flush(self) -> None:
        """End the block."""
        if not self._pieces:
            return
        text = "".join(self._pieces)
        if self._num_pre:
            text = text.replace("\r\n", "\n").strip("\n").rstrip()
        else:
            text = _AROUND_BREAK.sub("\n", re.sub(" {2,}", " ", text)).strip()
        if text and not text.isspace():
            element = self._elements[-1]
            heading = _HEADINGS.get(element.tag, 0)
            self._blocks.append(Block(element, text, self._linked_chars, self._bullet, heading))
            self._bullet = ""
        self._pieces, self._linked_chars = [], 0


def num_chars(text: str) -> int:
    """Characters of a text other than spaces."""
    return sum(map(len, text.split()))


def count_words(text: str) -> int:
    """Words between spaces; in scripts without spaces every character is one."""
    return sum(1 for _ in _WORD.finditer(text))


def _number(text: str | None, default: int) -> int:
    return int(text) if text and _NUMBER.fullmatch(text) else default
