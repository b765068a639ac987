"""Wikimedia XML dumps: articles, the newest revision of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler  # the parser is defusedxml's
from xml.sax.xmlreader import AttributesImpl

from sovereign.lake import records
from sovereign.lake.opening import open_expanded
from sovereign.lake.records import Record, Report, SourceFile, Unreadable
from sovereign.lake.wiki_markup import link_prefixes, redirects, strip_markup

_BLOCK_BYTES = 2**18
_FILE, _CATEGORY = "6", "14"
"""Namespaces of pages whose links are no text, by their number in every Wikimedia wiki."""


class _Pages(ContentHandler):
    """Gathers the pages of a dump; `pages` is emptied by who reads it."""

    _KEPT = ("title", "ns", "id", "timestamp", "text", "namespace")

    def __init__(self) -> None:
        super().__init__()
        self.root: str | None = None
        self.pages: list[dict[str, str]] = []
        self.num_older = 0
        """Revisions that were followed by another."""
        self.language = ""
        self.link_prefixes: set[str] = set()
        self._page: dict[str, str] | None = None
        self._namespace = ""
        self._parts: list[str] | None = None
        self._size = 0

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self.root = self.root or name
        if name == "mediawiki":
            self.language = attrs.get("xml:lang", "")
        elif name == "page":
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
                    yield where, _read_article(page, handler.link_prefixes, handler.language, file.source.language)
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


def _read_article(page: dict[str, str], prefixes: set[str], wiki: str, language: str) -> dict[str, Any]:
    """The record of a page of a dump.

    Args:
        page: its elements.
        prefixes: what files and categories are called, as the dump says.
        wiki: the language that the dump says it is in, or nothing.
        language: of the source.
    """
    if page.get("large"):
        raise Unreadable("document too large")
    if page.get("ns") != "0":
        raise Unreadable("wiki page that is no article")
    markup = page.get("text", "")
    if "redirect" in page or redirects(markup):
        raise Unreadable("wiki page that redirects")
    known = link_prefixes(language) | link_prefixes(wiki or language) | prefixes
    text = strip_markup(markup, known, language)
    if not text:
        raise Unreadable("wiki page without text")
    title = page.get("title", "")
    return {"id": page.get("id"), "text": f"{title}\n\n{text}", "collected_at": page.get("timestamp")}
