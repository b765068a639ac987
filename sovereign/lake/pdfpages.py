"""Pages of a PDF file as lines with their place, by PDFium, the engine of Chromium. No process here: see pdf.py."""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Iterator
from typing import Any

from sovereign.lake.pdforder import Letter, is_right_to_left, reading_order
from sovereign.lake.pdftext import Line
from sovereign.lake.records import Unreadable

_NO_LETTER, _HYPHEN = 0xFFFD, 0xFFFE
"""What PDFium cannot tell; what it puts for a hyphen at a line's end."""
_SAMPLE = 16


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
        codes = self._codes()
        lines, start = [], 0
        for place, code in enumerate([*codes, 10]):
            if code in (10, 13, _HYPHEN):  # behind a hyphen PDFium goes on with the next line, or the page number
                if line := self._line(codes, start, place + (code == _HYPHEN)):
                    lines.append(line)
                start = place + 1
        return lines

    def _codes(self) -> list[int]:
        """The page's characters; U+FFFD where the font does not say which one it is."""
        get, page, num_chars = self._pdfium.FPDFText_GetUnicode, self._page, self._pdfium.FPDFText_CountChars(self._page)
        buffer = (ctypes.c_ushort * (num_chars + 1))()
        num_units = self._pdfium.FPDFText_GetText(page, 0, num_chars, buffer) - 1
        codes = buffer[:num_chars] if num_units == num_chars else [get(page, place) for place in range(num_chars)]
        has_error = self._pdfium.FPDFText_HasUnicodeMapError  # a call for each character would take most of the time
        firsts = {code: place for place, code in reversed(list(enumerate(codes)))}
        sample = {*firsts.values(), *range(0, num_chars, _SAMPLE)}
        doubtful = {codes[place] for place in sample if has_error(page, place) == 1}
        if not doubtful:
            return codes
        return [
            _NO_LETTER if code in doubtful and has_error(page, place) == 1 else code for place, code in enumerate(codes)
        ]

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
            text = self._reordered(text, start)
        first, last = self._rectangle(start), self._rectangle(stop - 1)
        size = self._pdfium.FPDFText_GetFontSize(self._page, start)
        height = max(first[3] - first[2], 1.0)
        return Line(text, min(first[0], last[0]), max(first[1], last[1]), (first[2] + first[3]) / 2, height, size)

    def _rectangle(self, place: int) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of a character, in points."""
        box = self._box
        self._pdfium.FPDFText_GetLooseCharBox(self._page, place, ctypes.byref(box))
        return box.left, box.right, box.bottom, box.top

    def _reordered(self, text: str, start: int) -> str:
        letters = []
        for place, char in enumerate(text, start):
            left, right, bottom, top = self._rectangle(place)
            if unicodedata.combining(char):
                left, right = self._drawn(place)
            letters.append(Letter(char, left, right, top - bottom))
        return reading_order(letters)

    def _drawn(self, place: int) -> tuple[float, float]:
        """Left and right of what is drawn: the place that a mark takes in a line says nothing of the mark."""
        left, right, bottom, top = (ctypes.c_double() for _ in range(4))
        pointers = map(ctypes.byref, (left, right, bottom, top))
        self._pdfium.FPDFText_GetCharBox(self._page, place, *pointers)
        return left.value, right.value


def bytes_to_text(codes: list[int]) -> str:
    """The text of UTF-16 code units or code points, as PDFium gives them."""
    if not any(0xD800 <= code < 0xE000 for code in codes):
        return "".join(map(chr, codes))
    return "".join(map(chr, codes)).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
