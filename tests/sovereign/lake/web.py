"""WARC files as crawlers write them, for tests of opt-outs."""

from __future__ import annotations

import gzip
from pathlib import Path

TEXT = "<p>The river flows through the old town, past the market and the school, and on to the sea in the south.</p>"


def record(
    url: str, body: bytes, *, date: str, status: str = "200 OK", headers: str = "Content-Type: text/html"
) -> bytes:
    """A gzip member with the record of a server's answer; further headers are parted by line ends."""
    http = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{len(body)}>\r\nWARC-Target-URI: {url}\r\n"
    head += f"WARC-Date: {date}\r\nContent-Type: application/http; msgtype=response\r\n"
    return gzip.compress(f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n", mtime=0)


def page(url: str, *, head: str = "", headers: str = "", date: str = "2026-05-02T00:00:00Z") -> bytes:
    """A page with some text, another for each address."""
    body = f"<html><head><title>T</title>{head}</head><body><article><h1>About</h1>{4 * TEXT}<p>This is {url}.</p>"
    return record(
        url, body.encode(), date=date, headers="\r\n".join(filter(None, ["Content-Type: text/html", headers]))
    )


def plain(
    url: str, text: str, *, date: str = "2026-05-01T00:00:00Z", status: str = "200 OK", headers: str = ""
) -> bytes:
    """A file such as robots.txt."""
    return record(url, text.encode(), date=date, status=status, headers=headers or "Content-Type: text/plain")


def write_warc(path: Path, *records: bytes) -> None:
    """A .warc.gz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records))
