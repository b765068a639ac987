"""WARC and ARC: archives of pages as servers sent them; records parsed by warcio."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sovereign.lake import records
from sovereign.lake.arc import ARC_LINE, ARC_START, to_warc
from sovereign.lake.codings import read_content
from sovereign.lake.decoding import decode
from sovereign.lake.notices import file_name, read_notice
from sovereign.lake.opening import open_expanded
from sovereign.lake.records import NOTICE, Record, Report, SourceFile, Unreadable
from sovereign.lake.texts import html_text, pdf_document
from sovereign.urls import parse_address

_BLOCK_BYTES = 2**18
_MAX_HEADER_BYTES = 2**16
_MARK = re.compile(rb"\n(WARC/[01]\.)")
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_HEADER_END = re.compile(rb"\r?\n(?:(\r?\n)|(?=WARC/[01]\.))")
"""An empty line, or the next record, which a header cannot have in it: what is between two is gone through once."""


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
    """Records, or why one cannot be read; after one whose length is wrong, the next line that begins a record.

    Records of ARC files are given as WARC has them.
    """
    window, is_arc = _Window(file), False
    while True:
        while window.fill(1) and window.data[:1] in b"\r\n":
            del window.data[: len(window.data) - len(window.data.lstrip(b"\r\n"))]
        if not window.data:
            if window.damage is not None:
                raise window.damage
            return
        window.fill(_MAX_HEADER_BYTES)
        is_arc = is_arc or window.data.startswith(ARC_START)
        size = _arc_size(window) if is_arc else _record_size(window)
        if isinstance(size, Unreadable):
            yield size
            _skip_to_mark(window, ARC_LINE if is_arc else _MARK)
        elif is_arc:
            yield to_warc(bytes(window.data[:size]))
            del window.data[:size]
        else:
            yield bytes(window.data[:size])
            del window.data[:size]


def _record_size(window: _Window) -> int | Unreadable:
    """Bytes of the record at the window's start, all of which are in the window then."""
    end = _HEADER_END.search(window.data, 0, _MAX_HEADER_BYTES)
    length = _LENGTH.search(window.data, 0, end.end()) if end else None
    if not window.data.startswith((b"WARC/1.", b"WARC/0.")) or end is None or end[1] is None or length is None:
        return Unreadable("damaged WARC record")
    size = end.end() + int(length[1])
    if size > records.MAX_FILE_BYTES:
        return Unreadable("document too large")
    if not window.fill(size):
        return Unreadable("truncated WARC record")
    window.fill(size + 16)
    after = bytes(window.data[size : size + 16])
    rest = after.lstrip(b"\r\n")
    if rest and not (
        rest[:7] in (b"WARC/1."[: len(rest)], b"WARC/0."[: len(rest)]) and after[:2] in (b"\r\n", b"\n\n")
    ):
        return Unreadable("WARC record with a wrong length")
    return size


def _arc_size(window: _Window) -> int | Unreadable:
    """The same of a record of an ARC file."""
    line = ARC_LINE.match(b"\n" + window.data[:_MAX_HEADER_BYTES])
    if line is None:
        return Unreadable("damaged ARC record")
    size = line.end() - 1 + int(line[3])
    if size > records.MAX_FILE_BYTES:
        return Unreadable("document too large")
    if not window.fill(size):
        return Unreadable("truncated ARC record")
    window.fill(size + _MAX_HEADER_BYTES)
    rest = bytes(window.data[size : size + _MAX_HEADER_BYTES]).lstrip(b"\r\n")
    if rest and not ARC_LINE.match(b"\n" + rest):
        return Unreadable("ARC record with a wrong length")
    return size


def _skip_to_mark(window: _Window, mark: re.Pattern[bytes]) -> None:
    """Go to the next line that begins a record, or to the end."""
    del window.data[:1]
    while True:
        found = mark.search(window.data)
        if found is not None:
            del window.data[: found.start(1)]
            return
        keep = 7 if mark is _MARK else _MAX_HEADER_BYTES  # it may begin here
        del window.data[: max(0, len(window.data) - keep)]
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
        if record.rec_headers.get_header("WARC-Segment-Number"):
            raise Unreadable("WARC record in segments")
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
