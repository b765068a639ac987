"""Files that are one document: plain text, Markdown, HTML (its main text), PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sovereign.lake import records
from sovereign.lake.decoding import decode
from sovereign.lake.htmltext import main_text
from sovereign.lake.notices import read_notice
from sovereign.lake.opening import read_whole
from sovereign.lake.pdf import pdf_text
from sovereign.lake.records import NOTICE, Record, Report, SourceFile, Unreadable

_CHARSET = re.compile(
    rb"""<(?:meta[^>]{1,200}?charset|\?xml[^>]{1,200}?encoding)\s*=\s*["']?\s*([\w:.-]{1,40})""", re.IGNORECASE
)

_HEAD_BYTES = 4096
"""How far into a page its encoding may be declared."""
_MAX_PAGE_BYTES = 8 * 2**20
_ELEMENT = re.compile("<[a-z]", re.IGNORECASE)
_MAX_ELEMENTS = 200_000
"""So many take about 2 s of a core and 200 MB."""


def read_text(file: SourceFile, _report: Report) -> Iterator[Record]:
    """A .txt or .md file."""
    data = read_whole(file.path, file.name, records.MAX_DOCUMENT_BYTES)
    yield file.name, {"text": decode(data, file.source.language, encoding=file.source.encoding)}


def read_html(file: SourceFile, report: Report) -> Iterator[Record]:
    """A page."""
    data = read_whole(file.path, file.name, records.MAX_DOCUMENT_BYTES)
    text = html_text(data, report, file.source.language, file.source.encoding)
    yield file.name, {"text": text, NOTICE: read_notice((), data)}


def read_pdf(file: SourceFile, report: Report) -> Iterator[Record]:
    """A PDF file."""
    data = read_whole(file.path, file.name, records.MAX_FILE_BYTES)
    yield file.name, {"text": pdf_document(data, file.name, report)}


def pdf_document(data: bytes, name: str, report: Report) -> str:
    """The text of a PDF file; the report counts the pages and words that were kept and left out.

    Args: `name` is the file's, for people.

    Raises:
        Unreadable, SourceError: see `pdf_text`.
    """
    watch = report.watch
    found = pdf_text(data, None if watch is None else lambda done, total: watch(name, done, total, "pages"))
    report.extraction["PDF pages kept"] += found.num_pages - found.pages_without_letters
    report.extraction["PDF pages left out, without letters"] += found.pages_without_letters
    report.extraction["PDF words kept"] += found.num_words
    report.extraction["PDF words left out"] += found.words_left_out
    return found.text


def html_text(
    data: bytes, report: Report, language: str, encoding: str | None = None, declared: str | None = None
) -> str:
    """The main text of a page, without menus and adverts.

    Args:
        data: the page.
        report: counts the words that were kept and left out.
        language: of its source.
        encoding: what the profile says.
        declared: what the server said; the page's own word counts where it said nothing.

    Raises:
        Unreadable: no encoding fits, it is too large, or there is no text.
    """
    if len(data) > _MAX_PAGE_BYTES:
        raise Unreadable("document too large")
    if declared is None and (found := _CHARSET.search(data[:_HEAD_BYTES])):
        declared = found[1].decode("ascii", "replace")
    page = decode(data, language, encoding=encoding, declared=declared).replace("\0", "")
    if sum(1 for _ in _ELEMENT.finditer(page)) > _MAX_ELEMENTS:
        raise Unreadable("page with too many elements")
    main = main_text(page)
    report.extraction["page words kept"] += main.num_words
    report.extraction["page words left out"] += main.num_words_left_out
    return main.text
