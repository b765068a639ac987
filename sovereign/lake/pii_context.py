"""What a number in a text is, by its form and the words beside it: a date, a section, a version, a price, a page range.

Everything here looks at a bounded number of characters around the number, in text whose digits, spaces and dashes are
ASCII (`fold`).
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date

from sovereign.lake import pii_words
from sovereign.ngrams import SPACELESS

WINDOW = 48
"""Characters before a number that its words are looked for in."""


def _table() -> dict[str, str]:
    table = {chr(code): " " for code in (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)}
    table |= {chr(code): "-" for code in (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D)}
    wide = (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), *map(ord, "＋＠．（）／"))
    table |= {chr(code): chr(code - 0xFEE0) for code in wide}
    digits = (chr(code) for code in range(0x80, 0x10000) if chr(code).isdecimal())
    return table | {char: str(unicodedata.decimal(char)) for char in digits}


_TABLE = _table()
_FOLDED = re.compile(f"[{re.escape(''.join(_TABLE))}]")


def fold(text: str) -> str:
    """The text with digits, spaces and dashes of every script, and full-width letters, as one ASCII character each."""
    return text if text.isascii() else _FOLDED.sub(lambda match: _TABLE[match[0]], text)


def line_before(text: str, start: int) -> str:
    """The end of what stands before a place in its line, in lower case: patterns that ignore case are slow."""
    return text[max(0, start - WINDOW) : start].rpartition("\n")[2].lower()


def line_after(text: str, stop: int) -> str:
    """The beginning of what stands behind a place in its line, in lower case."""
    return text[stop : stop + WINDOW // 2].partition("\n")[0].lower()


def _words(whole: str, anywhere: str) -> str:
    """A pattern of whole words, and of those that may be within others."""
    letter = rf"[^\W\d_{SPACELESS}]"
    words = "|".join(whole.replace("*", r"\w{0,12}").split())
    return rf"(?:(?<!{letter})(?:{words})(?!{letter})|{'|'.join(anywhere.split())})"


_PHONE = _words(pii_words.PHONE, pii_words.PHONE_ANYWHERE)
_SECTION = _words(pii_words.SECTION, pii_words.SECTION_ANYWHERE)
_IP = _words(pii_words.IP, pii_words.IP_ANYWHERE)
_WORD = re.compile(rf"(?P<phone>{_PHONE})|(?P<section>{_SECTION})|(?P<ip>{_IP})")
_ENDED = re.compile(r"[0-9)>][.;!?] {1,3}(?=[^\W\d_])")
"""The end of a sentence with a number in it: its words say nothing of the next number."""
_NEAR = re.compile(r"[ \t.:;,#=(\[\"'„“«»°№-]{0,4}(?:n[or°º]\.? {0,2}|num\w{0,8}:? {0,2})?\Z")
_AFTER_SECTION = re.compile(r" {0,2}(?:节|節|章|版|条|條|款|项|項|절|장|판|號|号)|[-+~][0-9a-z]{1,12}(?![\w.])")
_AFTER_IP = re.compile(r"(?::[0-9]{2,5}|/[0-9]{1,2})(?![\w.])| - - \[| port\b")
_AFTER_PHONE = re.compile(rf"[ ,;]{{0,2}}[(\[]{_PHONE}")


def kind_by_words(before: str, after: str = "") -> str:
    """`phone`, `ip` or `section` (also versions, pages, figures, books), as the last word before says; else empty.

    A word for a section says something only of a number right behind it.
    """
    if _AFTER_SECTION.match(after):
        return "section"
    if _AFTER_PHONE.match(after):
        return "phone"
    before = _ENDED.split(before)[-1]
    found = ""
    for match in _WORD.finditer(before):
        kind = match.lastgroup or ""
        if kind != "section" or _NEAR.match(before, match.end()):
            found = kind
    return found


def is_address(number: str, before: str, after: str) -> bool:
    """Whether four numbers with dots are an IP address and no section or version.

    Where no word says so, an address is one with a first part from 10 and one part from 100: 94 of 100 addresses are.
    """
    if _AFTER_IP.match(after) or before.endswith(("//", "@")):
        return not _AFTER_SECTION.match(after)
    kind = kind_by_words(before, after)
    if not kind and before.endswith("from ") and not any(match["section"] for match in _WORD.finditer(before)):
        kind = "ip"
    parts = [int(part) for part in number.split(".")]
    return kind == "ip" or (kind != "section" and parts[0] >= 10 and max(parts) >= 100)


_DATE = re.compile(r"(?<![0-9])(?<![0-9][./-])([0-9]{1,4})([./-] ?)([0-9]{1,2})\2([0-9]{2,4})(?!\2?[0-9])")
_YEARS = re.compile(
    r"(?<![0-9])(?<![0-9][ ./-])(?:1[0-9]|20)[0-9]{2}(?: ?[/-] ?| )(?:1[0-9]|20)[0-9]{2}(?![ ./-]?[0-9])"
)
_BOOK = re.compile(r"(?<![0-9-])(?:97[89][- ]?)?[0-9]{1,5}(?:[- ]?[0-9]){7}[- ]?[0-9](?:[- ]?[0-9]){0,3}(?![0-9])")


def _is_day(year: str, month: str, day: str) -> bool:
    if len(year) == 4 and not "1000" <= year < "2200":
        return False
    try:
        date(int(year) if len(year) == 4 else 2000, int(month), int(day))
    except ValueError:
        return False
    return True


def is_date(first: str, second: str, third: str) -> bool:
    """Whether three numbers are a date of the calendar: day, month, year, or as in the USA, or in ISO 8601."""
    if len(first) == 4:
        return len(third) <= 2 and _is_day(first, second, third)
    if len(first) > 2 or len(third) not in (2, 4):
        return False
    return _is_day(third, second, first) or _is_day(third, first, second)


def _is_book(number: str) -> bool:
    """ISBN of 13 digits, EAN's checksum."""
    digits = [int(char) for char in number if char.isdecimal()]
    weighted = sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return len(digits) == 13 and digits[:2] == [9, 7] and digits[2] in (8, 9) and weighted % 10 == 0


_QUAD = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")


def without_quads(text: str) -> str:
    """The text with `;` for each character of four numbers with dots."""
    return _QUAD.sub(lambda match: ";" * len(match[0]), text)


def without_dates(text: str) -> str:
    """The text with `;` for each character of a date, of a range of years, and of an ISBN."""

    def cover(match: re.Match[str]) -> str:
        return ";" * len(match[0])

    text = _DATE.sub(lambda match: cover(match) if is_date(match[1], match[3], match[4]) else match[0], text)
    text = _BOOK.sub(lambda match: cover(match) if _is_book(match[0]) else match[0], text)
    return _YEARS.sub(cover, text)


_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:[ .'][0-9]{3}){1,5}")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,4})\.[0-9]{1,20}")
_RANGE = re.compile(r"[0-9]{1,6} ?[-/] ?[0-9]{1,6}")
_PAIRS = re.compile(r"[0-9]{1,3}[-/][0-9]{1,3}(?: [0-9]{1,3}[-/][0-9]{1,3}){1,8}")
_DOTTED = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){2,12}")
_RAW = re.compile(r"[1-9][0-9]{5,20}|0[0-9]{5,7}|0123456789?")
_UNIT = re.compile(
    r"[,.][0-9]|:[0-9a-f]| ?(?:[%‰€$£¥₹₽°²³×*=<>^]|(?:[kmgt]i?)?b(?:ytes?|its?)?\b"
    r"|eur|usd|chf|gbp|euro|dollar|[kcm]?m\b|kg\b|g\b"
    r"|[mkg]?hz\b|[kmg]?w\b|s\b|ms\b|min\b|uhr\b|h\b|oct|байт|руб|元|円|人|年|月|字节|バイト|einwohner|habitant|inhabitants"
    r"|abitanti|people|mio|million|mrd)|[-_/][^\W\d]|[ \t]{1,4}-?[0-9]",
)
_BEFORE_UNIT = re.compile(
    r"(?:[€$£¥₹₽] ?|[=<>^*/_#&?%\\@~+]|[0-9.][,.]|[^\W\d][-.]|0x|\b[0-9a-f]{2}:|[0-9][ \t]{1,4}|[0-9][-/])\Z"
)


def is_quantity(number: str, before: str, after: str) -> bool:
    """Whether a number that no word says anything of is more likely an amount, a range, a score or a part of a name."""
    number = number.strip("([")
    return (
        "  " in number
        or number.startswith("0 ")
        or any(form.fullmatch(number) for form in (_GROUPED, _DECIMAL, _RANGE, _PAIRS, _RAW))
        or (bool(_DOTTED.fullmatch(number)) and any(len(part) == 1 for part in number.split(".")))
        or max(map(len, re.findall(r"[0-9]{1,30}", number))) == 1
        or bool(_UNIT.match(after))
        or bool(_BEFORE_UNIT.search(before[-6:]))
    )
