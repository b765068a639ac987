"""Archives of pages: WARC (records parsed by warcio) and Wikimedia XML dumps (markup parsed by mwparserfromhell)."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler  # the parser is defusedxml's
from xml.sax.xmlreader import AttributesImpl

from sovereign.lake import records
from sovereign.lake.codings import read_content
from sovereign.lake.decoding import decode
from sovereign.lake.notices import file_name, read_notice
from sovereign.lake.opening import open_expanded
from sovereign.lake.records import NOTICE, Record, Report, SourceFile, Unreadable
from sovereign.lake.texts import html_text, pdf_document
from sovereign.urls import parse_address

_BLOCK_BYTES = 2**18
_MAX_HEADER_BYTES = 2**16
_MARK = re.compile(rb"\n(WARC/1\.)")
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_HEADER_END = re.compile(rb"\r?\n(?:(\r?\n)|(?=WARC/1\.))")
"""An empty line, or the next record, which a header cannot have in it: what is between two is gone through once."""
_FILE, _CATEGORY = "6", "14"
"""Namespaces of pages whose links are no text, by their number in every Wikimedia wiki."""
_MAX_MARKUP = 2 * 2**20
"""Characters of a wiki page; MediaWiki itself takes no more bytes, https://www.mediawiki.org/wiki/Manual:$wgMaxArticleSize."""
_MAX_DEPTH = 100
"""Each bracket that is left open costs the parser another way through the page."""
_BRACKET = re.compile(r"\[\[|\]\]|\{\{|\}\}|</?([a-z]+)(?:[^<>]*+>)?", re.IGNORECASE)
_MAX_AGAIN = 2**23
"""Characters that the parser may go through again for tags without `>`, each to the page's end; some 4 s of a core."""
_OPENED_BY = str.maketrans("]}", "[{")
_UNCLOSED_TAGS = ("br", "hr", "li", "p", "dt", "dd", "tr", "td", "th", "wbr")
_NO_TEXT_TAGS = ("ref", "table", "gallery", "math", "timeline", "score", "syntaxhighlight", "source")


def read_warc(file: SourceFile, report: Report) -> Iterator[Record]:
    """Pages (HTML, plain text, PDF) of responses, resources and conversions; records of other kinds are counted."""
    with open_expanded(file.path, file.name) as expanded:
        for number, record in enumerate(split_warc(expanded), 1):
            where = f"{file.name}#{number}"
            try:
                if isinstance(record, Unreadable):
                    raise record
                yield where, _read_page(record, file, report)
            except Unreadable as error:
                report.skip(where, error.message)


class _Window:
    """A file seen through a buffer that moves forward."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.data = bytearray()
        self.damage: Unreadable | None = None

    def fill(self, size: int) -> bool:
        """Whether there are `size` bytes; less only at the end of the file or before its damage."""
        while len(self.data) < size and self.damage is None:
            try:
                block = self._file.read1(_BLOCK_BYTES)
            except Unreadable as error:
                self.damage = error  # what is in the window is read first
                break
            if not block:
                break
            self.data += block
        return len(self.data) >= size


def split_warc(file: io.BufferedReader) -> Iterator[bytes | Unreadable]:
    """Records, or why one cannot be read; after one whose length is wrong, the next line that begins a record."""
    window = _Window(file)
    while True:
        while window.fill(1) and window.data[:1] in b"\r\n":
            del window.data[: len(window.data) - len(window.data.lstrip(b"\r\n"))]
        if not window.data:
            if window.damage is not None:
                raise window.damage
            return
        size = _record_size(window)
        if isinstance(size, Unreadable):
            yield size
            _skip_to_mark(window)
        else:
            yield bytes(window.data[:size])
            del window.data[:size]


def _record_size(window: _Window) -> int | Unreadable:
    """Bytes of the record at the window's start, all of which are in the window then."""
    window.fill(_MAX_HEADER_BYTES)
    end = _HEADER_END.search(window.data, 0, _MAX_HEADER_BYTES)
    length = _LENGTH.search(window.data, 0, end.end()) if end else None
    if not window.data.startswith(b"WARC/1.") or end is None or end[1] is None or length is None:
        return Unreadable("damaged WARC record")
    size = end.end() + int(length[1])
    if size > records.MAX_FILE_BYTES:
        return Unreadable("document too large")
    if not window.fill(size):
        return Unreadable("truncated WARC record")
    window.fill(size + 16)
    after = bytes(window.data[size : size + 16])
    rest = after.lstrip(b"\r\n")
    if rest and not (b"WARC/1.".startswith(rest[:7]) and after[:2] in (b"\r\n", b"\n\n")):
        return Unreadable("WARC record with a wrong length")
    return size


def _skip_to_mark(window: _Window) -> None:
    """Go to the next line that begins a record, or to the end."""
    del window.data[:1]
    while True:
        found = _MARK.search(window.data)
        if found is not None:
            del window.data[: found.start(1)]
            return
        del window.data[: max(0, len(window.data) - 7)]  # it may begin here
        if not window.fill(len(window.data) + 1):
            window.data.clear()
            return


@dataclass(frozen=True)
class Answer:
    """What a server answered, or what was made of it."""

    url: str
    date: str | None
    """When, ISO 8601."""
    status: str | None
    """HTTP status; None where the record holds no HTTP message."""
    headers: list[tuple[str, str]]
    content_type: str
    content: bytes
    damage: str
    """Why `content` is not all that the server sent, or nothing."""

    def header(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def parse_answer(data: bytes, *, only_ok: bool = True) -> Answer | None:
    """The answer in a WARC record, if it holds one.

    Raises:
        Unreadable: it is damaged; or with `only_ok` of another status than 200, or its content is not whole.
    """
    from warcio.recordloader import ArcWarcRecordLoader

    try:
        record = ArcWarcRecordLoader(verify_http=False).parse_record_stream(io.BytesIO(data), known_format="warc")
        kind, http = record.rec_type, record.http_headers
        if kind not in ("response", "resource", "conversion"):
            return None
        status = None if http is None else http.get_statuscode()
        if status not in (None, "200") and only_ok:
            raise Unreadable("HTTP status other than 200")
        headers = record.rec_headers if http is None else http
        content, damage = read_content(record)
        answer = Answer(
            url=(record.rec_headers.get_header("WARC-Target-URI") or "").strip("<>"),
            date=record.rec_headers.get_header("WARC-Date"),
            status=status,
            headers=[] if http is None else list(http.headers),
            content_type=headers.get_header("Content-Type") or "",
            content=content,
            damage=damage,
        )
    except Unreadable:
        raise
    except Exception as error:  # warcio raises whatever a damaged header or encoding leads to
        raise Unreadable("damaged WARC record") from error
    if answer.damage and only_ok:
        raise Unreadable(answer.damage)
    return answer


def _read_page(data: bytes, file: SourceFile, report: Report) -> dict[Any, Any]:
    """The record of a page."""
    answer = parse_answer(data)
    if answer is None:
        raise Unreadable("WARC record that is no page")
    if file_name(parse_address(answer.url)):
        raise Unreadable("WARC record of a host's robots.txt, ai.txt or tdmrep.json")
    page = answer.content if "html" in answer.content_type.lower() else b""
    return {
        "text": _page_text(answer.content, answer.content_type, file, report),
        "collected_at": answer.date,
        "url": answer.url or None,
        NOTICE: read_notice(answer.headers, page),
    }


def _page_text(content: bytes, content_type: str, file: SourceFile, report: Report) -> str:
    kind, _, parameters = content_type.lower().partition(";")
    declared = re.search(r"""charset\s*=\s*["']?([\w:.-]{1,40})""", parameters)
    charset = declared[1] if declared else None
    source, is_pdf = file.source, kind.strip() == "application/pdf"
    if len(content) > records.MAX_DOCUMENT_BYTES and not is_pdf:
        raise Unreadable("document too large")
    match kind.strip():
        case "text/html" | "application/xhtml+xml":
            return html_text(content, report, source.language, source.encoding, charset)
        case "text/plain":
            return decode(content, source.language, encoding=source.encoding, declared=charset)
        case "application/pdf":
            return pdf_document(content, file.name, report)
        case _:
            raise Unreadable("WARC record that is no text")


class _Pages(ContentHandler):
    """Gathers the pages of a dump; `pages` is emptied by who reads it."""

    _KEPT = ("title", "ns", "id", "timestamp", "text", "namespace")

    def __init__(self) -> None:
        super().__init__()
        self.root: str | None = None
        self.pages: list[dict[str, str]] = []
        self.num_older = 0
        """Revisions that were followed by another."""
        self.link_prefixes: set[str] = {"file", "image", "category"}
        self._page: dict[str, str] | None = None
        self._namespace = ""
        self._parts: list[str] | None = None
        self._size = 0

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.root = self.root or name
        if name == "page":
            self._page = {}
        elif name == "redirect" and self._page is not None:
            self._page["redirect"] = attrs.get("title", "")
        elif name == "namespace":
            self._namespace = attrs.get("key", "")
        if name in self._KEPT:
            self._parts, self._size = [], 0

    def characters(self, content: str) -> None:
        if self._parts is not None:
            self._size += len(content)
            if self._size <= records.MAX_DOCUMENT_BYTES:
                self._parts.append(content)

    def endElement(self, name: str) -> None:  # noqa: N802
        if name in self._KEPT and self._parts is not None:
            text, self._parts = "".join(self._parts), None
            if name == "namespace" and self._namespace in (_FILE, _CATEGORY):
                self.link_prefixes.add(text.casefold())
            elif self._page is not None:
                self._take(self._page, name, text)
        elif name == "page" and self._page is not None:
            self.pages.append(self._page)
            self._page = None

    def _take(self, page: dict[str, str], name: str, text: str) -> None:
        if name == "text":
            self.num_older += "text" in page
            page["large"] = "large" if self._size > records.MAX_DOCUMENT_BYTES else ""
        if name in ("text", "timestamp"):  # the last revision counts
            page[name] = text
        else:
            page.setdefault(name, text)  # the page's id comes before the revision's


def read_wiki(file: SourceFile, report: Report) -> Iterator[Record]:
    """Articles of a Wikimedia dump: the newest revision of each in the file, its title, a blank line, its text."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.expatreader import DefusedExpatParser

    handler, parser, number = _Pages(), DefusedExpatParser(forbid_dtd=True), 0
    parser.setContentHandler(handler)
    with open_expanded(file.path, file.name) as expanded:
        while True:
            block = expanded.read1(_BLOCK_BYTES)
            try:
                parser.feed(block) if block else parser.close()
                failed = None
            except (SAXException, DefusedXmlException, ValueError, LookupError) as error:  # the last of its encoding
                failed = error
            for page in handler.pages:
                number += 1
                where = f"{file.name}#{number}"
                try:
                    yield where, _read_article(page, handler.link_prefixes)
                except Unreadable as error:
                    report.skip(where, error.message)
            handler.pages.clear()
            if handler.num_older:
                report.skip(file.name, "older revision of a wiki page", handler.num_older)
                handler.num_older = 0
            if handler.root not in (None, "mediawiki"):
                raise Unreadable("XML that is no Wikimedia dump")
            if failed is not None or (not block and handler.root is None):
                raise Unreadable("truncated or damaged XML") from failed
            if not block:
                return


def _read_article(page: dict[str, str], link_prefixes: set[str]) -> dict[str, Any]:
    """The record of a page of a dump."""
    if page.get("large"):
        raise Unreadable("document too large")
    if page.get("ns") != "0":
        raise Unreadable("wiki page that is no article")
    if "redirect" in page:
        raise Unreadable("wiki page that redirects")
    text = _strip_markup(page.get("text", ""), link_prefixes)
    if not text:
        raise Unreadable("wiki page without text")
    title = page.get("title", "")
    return {"id": page.get("id"), "text": f"{title}\n\n{text}", "collected_at": page.get("timestamp")}


def _is_hard(markup: str) -> bool:
    """Whether too many links, templates or tags are open at one place, or too many tags have no end."""
    depths: Counter[str] = Counter()
    deepest = again = 0
    for found in _BRACKET.finditer(markup):
        bracket, tag = found[0][:2], (found[1] or "").lower()
        if tag and not found[0].endswith(">"):
            again += len(markup) - found.start()
            continue
        kind = "<" if tag else bracket.translate(_OPENED_BY)
        if tag not in _UNCLOSED_TAGS and not found[0].endswith("/>"):
            depths[kind] = max(0, depths[kind] + (-1 if bracket in ("]]", "}}", "</") else 1))
            deepest = max(deepest, depths[kind])
    return deepest > _MAX_DEPTH or again > _MAX_AGAIN


def _strip_markup(markup: str, link_prefixes: set[str]) -> str:
    """Text of wiki markup, without templates, tables, references, pictures and categories."""
    import mwparserfromhell

    if len(markup) > _MAX_MARKUP:
        raise Unreadable("document too large")
    if _is_hard(markup):
        raise Unreadable("wiki page that cannot be parsed")

    try:
        code = mwparserfromhell.parse(markup)
        _drop(code, link_prefixes)
        text: str = code.strip_code(normalize=True, collapse=True)
    except Exception as error:  # nested without end, markup ends anywhere in the parser, with any error
        raise Unreadable("wiki page that cannot be parsed") from error
    return re.sub(r"__[A-Z]+__", "", text).strip()


def _drop(code: Any, link_prefixes: set[str]) -> None:
    """Take out what is no text, here and inside of what stays, in one pass."""
    from mwparserfromhell.nodes import Tag, Wikilink

    kept = []
    for node in code.nodes:
        if isinstance(node, Tag) and str(node.tag).strip().lower() in _NO_TEXT_TAGS:
            continue
        if isinstance(node, Wikilink) and str(node.title).partition(":")[0].strip().casefold() in link_prefixes:
            continue
        kept.append(node)
        for child in node.__children__():
            _drop(child, link_prefixes)
    if len(kept) < len(code.nodes):
        code.nodes = kept
