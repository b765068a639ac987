"""Pages of a PDF file as lines with their place, by PDFium, the engine of Chromium. No process here: see pdf.py."""

from __future__ import annotations

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from sovereign.lake.pdforder import Letter, is_right_to_left, reading_order
from sovereign.lake.pdftext import Line
from sovereign.lake.records import Unreadable

_NO_LETTER = "\ufffd"
_SAMPLE = 64
_ANGLES = 7
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE = re.compile("[^\r\n\ufffe]+\ufffe?")
"""U+FFFE is what PDFium puts for a hyphen at a line's end."""


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
        upright = _PageReader(text_page.raw).upright()
        if upright != page.get_rotation():
            text_page.close()
            page.set_rotation(upright)
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

    def upright(self) -> int:
        """The rotation of the page, in degrees, at which most of its text stands upright."""
        num_chars = self._pdfium.FPDFText_CountChars(self._page)
        turns = [
            round(angle / (math.pi / 2)) % 4
            for place in range(0, num_chars, max(num_chars // _ANGLES, 1))
            if (angle := self._pdfium.FPDFText_GetCharAngle(self._page, place)) >= 0
        ]
        return 90 * max(sorted(set(turns)), key=turns.count) if turns else 0

    def read(self) -> list[Line]:
        text = self._text()
        # After a hyphen PDFium continues with the next line, or with the page number.
        return [line for found in _LINE.finditer(text) if (line := self._line(found[0], found.start()))]

    def _text(self) -> str:
        """A character for each of PDFium's; U+FFFD where the font does not say which one it is."""
        page, num_chars = self._page, self._pdfium.FPDFText_CountChars(self._page)
        buffer = (ctypes.c_ushort * (num_chars + 1))()
        num_units = self._pdfium.FPDFText_GetText(page, 0, num_chars, buffer) - 1
        text = bytes(buffer)[: 2 * num_units].decode("utf-16-le", "surrogatepass")
        if len(text) != num_chars:
            text = "".join(chr(self._pdfium.FPDFText_GetUnicode(page, place)) for place in range(num_chars))
        has_error = self._pdfium.FPDFText_HasUnicodeMapError  # a call for each character would take most of the time
        sample = {*map(text.index, set(text)), *range(0, num_chars, _SAMPLE)}
        doubtful = {text[place] for place in sample if has_error(page, place) == 1}
        if not doubtful:
            return text
        return "".join(
            _NO_LETTER if char in doubtful and has_error(page, place) == 1 else char for place, char in enumerate(text)
        )

    def _line(self, text: str, start: int) -> Line | None:
        start += len(text) - len(text.lstrip())
        text = text.strip()
        if not text:
            return None
        first, last = self._rectangle(start), self._rectangle(start + len(text) - 1)
        if is_right_to_left(text):
            text = self._reordered(text, start)
        size = self._pdfium.FPDFText_GetFontSize(self._page, start)
        height = max(first[3] - first[2], 1.0)
        if _SURROGATE.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
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
