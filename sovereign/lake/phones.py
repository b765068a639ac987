"""Phone numbers in text: candidates by form, checked by phonenumbers, judged by the words beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from sovereign.lake.pii_context import is_quantity, kind_by_words, line_after, line_before, without_dates, without_quads

if TYPE_CHECKING:
    from phonenumbers import PhoneNumberMatch

_REST = r"[0-9](?:[][ ()./-]{0,3}[0-9])"
_ABROAD = re.compile(rf"\+[ (\[]{{0,3}}{_REST}{{6,24}}|00[ ./-]?[1-9](?:[][ ()./-]{{0,3}}[0-9]){{6,24}}")
"""With a country code, after + or 00."""
_ANY = re.compile(rf"[+([0-9][ +(\[]{{0,3}}{_REST}{{5,30}}")
_HAS_ANY = re.compile(r"(?:[0-9][ ()./-]{0,3}){6}[0-9]|\+")
_EXTENSION = 24
"""Characters after a number in which its extension may be."""
_MAX_DIGITS = 26
"""More than a date and a number have, or two numbers: a row of a table."""
_CODE = re.compile(r"00(?=[ ./-]?[1-9])")
_BRACKETS = str.maketrans("[]", "()")
_IN_NAME = re.compile(r"[0-9a-z_.~]\Z")
"""What stands before the + of a version: 2.1+20210405123."""
_IN_ADDRESS = re.compile(r"(?:://|www\.|\b10\.[0-9]{4,9}/)[^\s]{0,48}\Z")


def phone_finder(regions: Iterable[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    """A finder of numbers with a country code, and of those that are valid as dialled within one of the regions."""
    wanted = tuple(regions)

    def find(text: str) -> Iterator[tuple[int, int]]:
        if not (_HAS_ANY if wanted else _ABROAD).search(text):
            return
        end = 0
        for run in (_ANY if wanted else _ABROAD).finditer(text):
            for start, stop in _numbers(text, run.start(), run.end(), wanted):
                if start >= end:
                    yield start, stop
                    end = stop

    return find


def _numbers(text: str, start: int, stop: int, regions: tuple[str, ...]) -> list[tuple[int, int]]:
    """Phone numbers that begin in a run of digits."""
    before = line_before(text, start)
    is_announced = kind_by_words(before, line_after(text, stop)) == "phone"
    first = max(0, start - 1)
    window = text[first : stop + _EXTENSION].partition("\n")[0].translate(_BRACKETS)
    size = stop - first
    if _ABROAD.match(window, start - first) and (is_announced or not _IN_NAME.search(before)):
        code = _CODE.match(window, start - first)
        window = window[: start - first] + (" +" + window[code.end() :] if code else window[start - first :])
        window = window[: start - first] + window[start - first : size].replace("/", "-") + window[size:]
        if spans := [match for match in _valid(window, size, None, is_strict=False) if "+" in match.raw_string]:
            return [(first + match.start - bool(code), first + match.end) for match in spans]
    if not regions:
        return []
    if not is_announced:
        if sum(map(str.isdecimal, window[:size])) > _MAX_DIGITS or (first < start and text[first].isdecimal()):
            return []
        window = without_quads(window)
    window = without_dates(window)
    is_strict = not is_announced and window[start - first : size].lstrip(" ;(")[:1] != "0"
    spans = [match for region in regions for match in _valid(window, size, region, is_strict=is_strict)]
    return sorted(
        (first + match.start, first + match.end)
        for match in spans
        if _is_dialled(text, first + match.start, first + match.end)
    )


def _valid(window: str, size: int, region: str | None, *, is_strict: bool) -> list[PhoneNumberMatch]:
    """Valid numbers that begin in the first `size` characters; `is_strict`: in groups as their country writes them."""
    from phonenumbers import Leniency, PhoneNumberMatcher  # a second, for the formats of all countries

    leniency = Leniency.STRICT_GROUPING if is_strict else Leniency.VALID
    return [match for match in PhoneNumberMatcher(window, region, leniency=leniency) if match.start < size]


def _is_dialled(text: str, start: int, stop: int) -> bool:
    number, before, after = text[start:stop], without_dates(line_before(text, start)), line_after(text, stop)
    if _IN_ADDRESS.search(before) or number.startswith("10."):
        return False
    kind = kind_by_words(before, after)
    return kind == "phone" or (kind != "section" and not is_quantity(number, before, after))
