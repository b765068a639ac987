"""The text of a PDF file from its lines: paragraphs, without what stands on every page, in the order of reading.

A PDF file says where letters stand, not what they make up. What is done about it here: words divided at a line's end
are joined, lines become paragraphs, leaders and running heads go, ligatures and the shapes of Arabic letters become
letters, spaces between Han characters go, right-to-left text that comes out reversed is turned, and pages whose fonts
do not say their letters are left out. docs/readers.md has what was measured.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from sovereign.lake.pdforder import RTL, is_right_to_left, turned

_HYPHEN = "\ufffe"
_RTL = re.compile(f"[{RTL}]")
_HAN = r"\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_HAN_SPACE = re.compile(rf"(?<=[{_HAN}]) +(?=[{_HAN}])")
_HAN_END = re.compile(rf"[{_HAN}]$")
_HAN_START = re.compile(rf"[{_HAN}]")
_DOTS = re.compile(r"[.·․‥…_]\s?[.·․‥…_]")
_LEADERS = re.compile(r"(?:\s*[.·․‥…_]){4,}\s*|(?:\s[.·․‥…]){3,}\s*")
_SHAPES = re.compile(r"[\ufb00-\ufb06\ufb13-\ufb17\ufb1d-\ufdcf\ufdf0-\ufdfc\ufe70-\ufefc\u2e80-\u2fdf]+")
"""Ligatures, shapes of letters, and radicals that stand for Han characters."""
_POINTS = "\u0610-\u061a\u064b-\u065f\u0670\u05b0-\u05bd\u05bf\u05c1\u05c2"
_MARK_AFTER_SPACE = re.compile(rf" ([{_POINTS}]+) ?")
_INVISIBLE = re.compile(r"[\u00ad\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BULLETS = {0xF0B7: "•", 0xF0A7: "•", 0xF0D8: "•", 0xF076: "•", 0xF0FC: "✓", 0xF02D: "-"}
"""Of the fonts Symbol and Wingdings, which have no other letters."""
_CID = re.compile(r"\(cid:[0-9]+\)")
_NO_LETTER = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffd\uffff\U000f0000-\U0010ffff]"
)
_MAX_GARBAGE = 0.05
"""Share of a page's characters that are none of any script."""
_MAX_NOTHING = 0.3
"""Share of those that the font has no picture for."""
_PAGE_NUMBER = re.compile(r"\W*(?:\d{1,5}|[ivxlc]{1,7})(?:\s*/\s*\d{1,5})?\W*", re.IGNORECASE)
"""A line with nothing else."""
_EDGE_LINES = 2
_MAX_RUNNING_CHARS = 200
_ENDS = ".!?:;؟。！？：…։।॥”»"
_ITEM = re.compile(r"^(?:[•◦▪‣●○■–—*-]\s|\(?[0-9]{1,3}[.)]\s|\(?[a-z][.)]\s)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page; places in points, from the page's left and bottom."""

    text: str
    left: float
    right: float
    middle: float
    height: float
    size: float
    """Of the font of its first letter."""


@dataclass(frozen=True)
class Extracted:
    """What a file says."""

    text: str
    pages_without_letters: int
    """Left out, since their fonts do not say which letters they show."""
    words_left_out: int
    """Of running heads and page numbers."""


def extract(pages: list[list[Line]]) -> Extracted:
    """The text of the pages."""
    readable = [page for page in pages if not is_garbage(page)]
    clean = [[replace(line, text=text) for line in page if (text := _clean(line.text))] for page in readable]
    kept, left_out = _without_running(clean)
    if _is_reversed(line.text for page in kept for line in page):
        kept = [[replace(line, text=_turn(line.text)) for line in page] for page in kept]
    paragraphs = _paragraphs(kept)
    text = "\n\n".join(_joined(paragraphs))
    return Extracted(text, len(pages) - len(readable), left_out)


def is_garbage(page: list[Line]) -> bool:
    """Whether the page's fonts do not say which letters it shows."""
    text = "".join(line.text for line in page)
    cids = _CID.findall(text)
    num_nothing = text.count("\0")  # what a font has no picture for: the page shows nothing there either
    num_bad = sum(map(len, cids)) + len(_NO_LETTER.findall(text.translate(_BULLETS))) - num_nothing
    if num_nothing > _MAX_NOTHING * len(text):
        return True
    return num_bad > _MAX_GARBAGE * len(text.replace(" ", ""))


def _clean(text: str) -> str:
    """A line without leaders, shapes of letters, and characters that are none."""
    text = _NO_LETTER.sub("", _CID.sub("", text).translate(_BULLETS))
    if not text.isascii():
        text = _SHAPES.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
        text = _MARK_AFTER_SPACE.sub(r"\1 ", _INVISIBLE.sub("", text))
        text = _HAN_SPACE.sub("", text)
    return " ".join((_LEADERS.sub(" ", text) if _DOTS.search(text) else text).split())


# --- what stands on every page ---------------------------------------------------------------------------------------


def _without_running(pages: list[list[Line]]) -> tuple[list[list[Line]], int]:
    """The pages without running heads and page numbers; how many words went."""
    if len(pages) < 2:
        return pages, 0
    edges = [_edges(page) for page in pages]
    offset = _offset(edges)
    heights = Counter(_height(line) for page in edges for line in page)
    seen = Counter(
        one for number, page in enumerate(edges) for one in {_signature(line, number, offset, page) for line in page}
    )
    least = 2 if len(pages) < 6 else 3
    kept, num_left_out = [], 0
    for number, (page, edge) in enumerate(zip(pages, edges, strict=True)):
        gone = set()
        for line in edge:
            is_often_here = sum(heights[_height(line) + shift] for shift in (-1, 0, 1)) >= least
            is_outermost = line in (edge[0], edge[-1])
            has_number = is_outermost and offset is not None and number + offset in _numbers(line.text)
            is_numbered = is_often_here and (has_number or bool(_PAGE_NUMBER.fullmatch(line.text)))
            if is_numbered or seen[_signature(line, number, offset, edge)] >= least:
                gone.add(id(line))
                num_left_out += len(line.text.split())
        kept.append([line for line in page if id(line) not in gone])
    return (kept, num_left_out) if any(kept) else (pages, 0)


def _height(line: Line) -> int:
    return round(line.middle / 4)


def _edges(page: list[Line]) -> list[Line]:
    """The highest and lowest lines."""
    by_height = sorted(page, key=lambda line: line.middle)
    return by_height if len(page) <= 2 * _EDGE_LINES else by_height[:_EDGE_LINES] + by_height[-_EDGE_LINES:]


def _signature(line: Line, number: int, offset: int | None, edge: list[Line]) -> tuple[str, int]:
    """The same for lines at one height that differ in nothing; the outermost may differ in the number of their page."""
    text = line.text.casefold()
    if offset is not None and line in (edge[0], edge[-1]):
        text = re.sub(r"\d+", lambda found: "#" if int(found[0][:9]) == number + offset else found[0], text)
    return text, round(line.middle / 8)


def _numbers(text: str) -> set[int]:
    """Numbers at the start and end of a line, in the digits of any script; the first one of `3 / 17` and `3 of 17`."""
    found = re.findall(r"^\W*(\d{1,5})\b|\b(\d{1,5})(?:\s*(?:/|\w{1,4})\s*\d{1,5})?\W*$", text)
    return {int(number) for pair in found for number in pair if number}


def _offset(edges: list[list[Line]]) -> int | None:
    """What is to be added to a page's place to get its printed number, where at least half of the pages have one."""
    offsets = Counter(
        number - place
        for place, page in enumerate(edges)
        for number in {one for line in (page[:1] + page[-1:]) for one in _numbers(line.text)}
    )
    if not offsets:
        return None
    offset, count = offsets.most_common(1)[0]
    return offset if count >= 2 and 2 * count >= len(edges) else None


# --- the order of reading --------------------------------------------------------------------------------------------

_ONLY_AT_END = frozenset("ךםןףץةىےں")
"""Letters that Hebrew, Arabic and Urdu write at the end of a word only."""
_FREQUENT = frozenset(
    [
        "في",
        "من",
        "على",
        "إلى",
        "أن",
        "التي",
        "هذا",
        "است",
        "در",
        "به",
        "از",
        "این",
        "که",
        "را",
        "با",
        "برای",
        "کے",
        "کی",
        "میں",
        "ہے",
        "اور",
        "של",
        "את",
        "על",
        "לא",
        "הוא",
        "זה",
        "עם",
    ]
)
_MIN_SIGNS = 5


def _is_reversed(lines: Iterable[str]) -> bool:
    """Whether right-to-left words come out with their last letter first."""
    signs = Counter[bool]()
    for line in lines:
        if not _RTL.search(line):
            continue
        for word in re.findall(r"[\u0590-\u06ff]{2,}", line):
            backward = word[::-1]
            signs[True] += (word[0] in _ONLY_AT_END) + (backward in _FREQUENT) + (len(word) > 3 and word.endswith("لا"))
            signs[False] += (word[-1] in _ONLY_AT_END) + (word in _FREQUENT) + (len(word) > 3 and word.startswith("ال"))
    return signs[True] >= _MIN_SIGNS and signs[True] > 3 * signs[False]


def _turn(line: str) -> str:
    """A reversed line in the order of reading."""
    if not _RTL.search(line):
        return line
    # A mark follows its letter in either order of the line.
    return re.sub(rf"([{_POINTS}]+)([\u05d0-\u05ea\u0620-\u064a\u066e-\u06d3])", r"\2\1", turned(line[::-1]))


# --- paragraphs ------------------------------------------------------------------------------------------------------


def _paragraphs(pages: list[list[Line]]) -> list[list[str]]:
    """The lines of each paragraph."""
    gaps = [
        above.middle - below.middle
        for page in pages
        for above, below in pairwise(page)
        if 0 < above.middle - below.middle < 4 * above.height
    ]
    leading = statistics.median(gaps) if gaps else 0.0
    found: list[list[str]] = []
    before: Line | None = None
    for page in pages:
        left = min((line.left for line in page), default=0.0)
        right = max((line.right for line in page), default=0.0)
        is_first = True
        for line in page:
            if before is None or _starts_paragraph(before, line, leading, left, right, is_first=is_first):
                found.append([])
            found[-1].append(line.text)
            before, is_first = line, False
    return found


def _starts_paragraph(before: Line, line: Line, leading: float, left: float, right: float, *, is_first: bool) -> bool:
    """Whether a line begins a paragraph; `is_first` on its page."""
    if before.text[-1] == _HYPHEN:
        return False
    if _ITEM.match(line.text) or abs(line.size - before.size) > 0.15 * max(line.size, before.size):
        return True
    if is_first:
        return before.text[-1] in _ENDS or (
            line.text[0].isupper() != before.text[-1].isupper() and line.text[0].isupper()
        )
    gap = before.middle - line.middle
    if gap > 1.3 * leading:
        return True
    if gap < 0:
        return before.text[-1] in _ENDS  # the next column
    width = max(right - left, 1.0)
    if is_right_to_left(line.text):
        is_short, is_indented = before.left - left > 0.2 * width, before.right - line.right > 0.8 * line.size
    else:
        is_short, is_indented = right - before.right > 0.2 * width, line.left - before.left > 0.8 * line.size
    return (is_short and before.text[-1] in _ENDS) or (
        is_indented and not _ITEM.match(before.text) and before.text[-1] in _ENDS
    )


def _joined(paragraphs: list[list[str]]) -> list[str]:
    """Each paragraph as one line."""
    whole = []
    for lines in paragraphs:
        text = lines[0]
        for line in lines[1:]:
            if text[-1] in "-\u2010" and text[-2:-1].isalpha() and line[0].isalpha():
                text = text[:-1] + _HYPHEN
            is_close = text[-1] == _HYPHEN or (_HAN_END.search(text) and _HAN_START.match(line))
            text += line if is_close else f" {line}"
        whole.append(text)
    known = Counter(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", "\n".join(whole)))
    return [_HYPHENATED.sub(lambda found: _without_hyphen(found, known), text).replace(_HYPHEN, "-") for text in whole]


_HYPHENATED = re.compile(rf"([^\W\d_]+){_HYPHEN}([^\W\d_]+)")
_AND = frozenset(
    [
        "und",
        "oder",
        "bzw",
        "sowie",
        "and",
        "or",
        "et",
        "ou",
        "y",
        "o",
        "e",
        "u",
        "och",
        "eller",
        "og",
        "en",
        "of",
        "ja",
        "tai",
        "i",
        "a",
    ]
)
"""After a hyphen that stands for the rest of a word: Rede- und Glaubensfreiheit."""


def _without_hyphen(found: re.Match[str], known: Counter[str]) -> str:
    """A word divided at a line's end; its hyphen stays where the text has it elsewhere, or a capital follows."""
    joined, hyphenated = found[1] + found[2], f"{found[1]}-{found[2]}"
    if found[2] in _AND and joined not in known:
        return f"{found[1]}- {found[2]}"
    if joined not in known and (hyphenated in known or (found[2][0].isupper() and not found[1].isupper())):
        return hyphenated
    return joined
