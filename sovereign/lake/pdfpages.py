"""Pages of a PDF file as lines with their place, by PDFium, the engine of Chromium. No process here: see pdf.py."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from sovereign.lake.pdftext import Line, is_right_to_left
from sovereign.lake.records import Unreadable

_NO_LETTER = 0xFFFD
_MIN_SPACE = 0.12
"""Of the font's size: a narrower gap in a line of Arabic script is between two letters of a word."""


def read_pages(data: bytes) -> Iterator[tuple[int, int, list[Line]]]:
    """Number of each page from 1, how many there are, and its lines.

    Raises:
        Unreadable: it is damaged, or needs a password.
    """
    import pypdfium2
    import pypdfium2.raw as pdfium

    try:
        document = pypdfium2.PdfDocument(data)
        num_pages = len(document)
    except pypdfium2.PdfiumError as error:
        if pdfium.FPDF_GetLastError() == pdfium.FPDF_ERR_PASSWORD or "password" in str(error).lower():
            raise Unreadable("PDF with a password") from error
        raise Unreadable("damaged or not PDF") from error
    try:
        if not num_pages:
            raise Unreadable("damaged or not PDF")
        for number in range(num_pages):
            yield number + 1, num_pages, _lines(document, number)
    finally:
        document.close()


def _lines(document: Any, number: int) -> list[Line]:
    import pypdfium2

    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return []  # an empty or damaged page between others
    try:
        text_page = page.get_textpage()
    except pypdfium2.PdfiumError:
        page.close()
        return []
    try:
        return _PageReader(text_page.raw).read()
    finally:
        text_page.close()
        page.close()


class _PageReader:
    """Reads the lines of one page."""

    def __init__(self, text_page: Any) -> None:
        import pypdfium2.raw as pdfium

        self._page, self._pdfium = text_page, pdfium
        self._box = pdfium.FS_RECTF()

    def read(self) -> list[Line]:
        get, page = self._pdfium.FPDFText_GetUnicode, self._page
        has_error = self._pdfium.FPDFText_HasUnicodeMapError  # the font does not say which letter it is
        places = range(self._pdfium.FPDFText_CountChars(page))
        codes = [get(page, place) if has_error(page, place) != 1 else _NO_LETTER for place in places]
        lines, start = [], 0
        for place, code in enumerate([*codes, 10]):
            if code in (10, 13):
                if place > start and (line := self._line(codes, start, place)):
                    lines.append(line)
                start = place + 1
        return lines

    def _line(self, codes: list[int], start: int, stop: int) -> Line | None:
        while start < stop and codes[start] <= 32:
            start += 1
        while stop > start and codes[stop - 1] <= 32:
            stop -= 1
        if start == stop:
            return None
        text = bytes_to_text(codes[start:stop])
        rtl = is_right_to_left(text)
        if rtl and len(text) == stop - start:
            text = self._without_narrow_spaces(text, start)
        first, last = self._rectangle(start), self._rectangle(stop - 1)
        size = self._pdfium.FPDFText_GetFontSize(self._page, start)
        height = max(first[3] - first[2], 1.0)
        return Line(text, min(first[0], last[0]), max(first[1], last[1]), (first[2] + first[3]) / 2, height, size)

    def _rectangle(self, place: int) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of a character, in points."""
        box = self._box
        self._pdfium.FPDFText_GetLooseCharBox(self._page, place, ctypes.byref(box))
        return box.left, box.right, box.bottom, box.top

    def _without_narrow_spaces(self, text: str, start: int) -> str:
        """A line of Arabic or Hebrew script without spaces that PDFium saw in the gap between two letters of a word."""
        narrow = set()
        for place in range(1, len(text) - 1):
            if text[place] == " ":
                before, after = self._rectangle(start + place - 1), self._rectangle(start + place + 1)
                gap = max(before[0] - after[1], after[0] - before[1])
                size = self._pdfium.FPDFText_GetFontSize(self._page, start + place - 1)
                if gap < _MIN_SPACE * size and before[1] > before[0] and after[1] > after[0]:
                    narrow.add(place)
        return "".join(char for place, char in enumerate(text) if place not in narrow)


def bytes_to_text(codes: list[int]) -> str:
    """The text of UTF-16 code units or code points, as PDFium gives them."""
    if not any(0xD800 <= code < 0xE000 for code in codes):
        return "".join(map(chr, codes))
    return "".join(map(chr, codes)).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
