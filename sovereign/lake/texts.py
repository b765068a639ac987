"""Files that are one document: plain text, Markdown, HTML (its main text, by trafilatura), PDF (its text, by pypdf)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from sovereign.lake import records
from sovereign.lake.decoding import decode
from sovereign.lake.mojibake import repair
from sovereign.lake.notices import read_notice
from sovereign.lake.opening import read_whole
from sovereign.lake.pdf import pdf_text
from sovereign.lake.records import NOTICE, REPAIRED, Record, Report, SourceFile, Unreadable

_CHARSET = re.compile(
    rb"""<(?:meta[^>]{1,200}?charset|\?xml[^>]{1,200}?encoding)\s*=\s*["']?\s*([\w:.-]{1,40})""", re.IGNORECASE
)
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it warns of is counted with its reason

_HEAD_BYTES = 4096
"""How far into a page its encoding may be declared."""
_MAX_PAGE_BYTES = 8 * 2**20
_ELEMENT = re.compile("<[a-z]", re.IGNORECASE)
_BLOCK = re.compile(
    r"(\n|</?(?:article|aside|blockquote|body|br|dd|div|dt|figcaption|footer|h[1-6]|head|header|hr|li|main|meta|nav|ol|option"
    r"|p|pre|script|section|style|table|td|th|title|tr|ul)\b[^<>]*>)",
    re.IGNORECASE,
)
"""What parts the lines of a page."""
_MAX_ELEMENTS = 20_000
"""Trafilatura's time grows with the square of their number: so many took it 11 s of a core."""


def read_text(file: SourceFile, _report: Report) -> Iterator[Record]:
    """A .txt or .md file."""
    data = read_whole(file.path, file.name, records.MAX_DOCUMENT_BYTES)
    yield file.name, {"text": decode(data, file.source.language, encoding=file.source.encoding)}


def read_html(file: SourceFile, _report: Report) -> Iterator[Record]:
    """A page."""
    data = read_whole(file.path, file.name, records.MAX_DOCUMENT_BYTES)
    text, num_repaired = html_text(data, file.source.language, file.source.encoding)
    yield file.name, {"text": text, NOTICE: read_notice((), data), REPAIRED: num_repaired}


def read_pdf(file: SourceFile, _report: Report) -> Iterator[Record]:
    """A PDF file."""
    yield file.name, {"text": pdf_text(read_whole(file.path, file.name, records.MAX_FILE_BYTES))}


def html_text(data: bytes, language: str, encoding: str | None = None, declared: str | None = None) -> tuple[str, int]:
    """The main text of a page, without menus and adverts; and how many places were repaired that were decoded twice.

    Args:
        data: the page.
        language: of its source.
        encoding: what the profile says.
        declared: what the server said; the page's own word counts where it said nothing.

    Raises:
        Unreadable: no encoding fits, it is too large, or there is no text.
    """
    import trafilatura

    if len(data) > _MAX_PAGE_BYTES:
        raise Unreadable("document too large")
    if declared is None and (found := _CHARSET.search(data[:_HEAD_BYTES])):
        declared = found[1].decode("ascii", "replace")
    page = decode(data, language, encoding=encoding, declared=declared).replace("\0", "")
    # Trafilatura takes out control characters and spaces that do not break, which are part of text decoded twice.
    page, num_repaired = repair(page, language, _BLOCK)
    if sum(1 for _ in _ELEMENT.finditer(page)) > _MAX_ELEMENTS:
        raise Unreadable("page with too many elements")
    try:
        text: str | None = trafilatura.extract(page, include_comments=False)
    except Exception as error:  # nested without end, a page ends anywhere in the parser, with any error
        raise Unreadable("page that cannot be parsed") from error
    if not text:
        raise Unreadable("page without text")
    return text, num_repaired
