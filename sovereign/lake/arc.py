"""Records of ARC files, the format before WARC, made into those of WARC.

A record is a line of address, IP address, time, type and length, with more fields in version 2, and so many bytes:
https://archive.org/web/researcher/ArcFileFormat.php.
"""

from __future__ import annotations

import re

ARC_START = b"filedesc://"
"""How an ARC file begins."""
ARC_LINE = re.compile(
    rb"\n(([a-z][a-z0-9+.-]*:[^\s]*) [^\s]+ (?:\d{14}|\d{12}|\d{8}) [^\r\n]*?\b(\d{1,18})[ \t]*\r?\n)"
)
"""The line that begins a record, its address, and its length."""
_TIME = re.compile(rb" (\d{4})(\d\d)(\d\d)(\d\d)?(\d\d)?(\d\d)? ")


def to_warc(record: bytes) -> bytes:
    """The record of WARC that says the same."""
    line = ARC_LINE.match(b"\n" + record)
    assert line is not None, "it was found by it"
    address, content = line[2], record[line.end() - 1 :]
    time = _TIME.search(line[1])
    date = b"%s-%s-%sT%s:%s:%sZ" % tuple(part or b"00" for part in time.groups()) if time else b""
    if address.startswith(ARC_START):
        kind, content_type = b"warcinfo", b"application/warc-fields"
    elif content.startswith(b"HTTP/"):
        kind, content_type = b"response", b"application/http;msgtype=response"
    else:
        fields = line[1].split()
        kind, content_type = b"resource", fields[3] if len(fields) > 4 else b"application/octet-stream"
    headers = (
        b"WARC/1.0", b"WARC-Type: " + kind, b"WARC-Target-URI: " + address, b"WARC-Date: " + date,
        b"Content-Type: " + content_type, b"Content-Length: %d" % len(content),
    )  # fmt: skip
    return b"\r\n".join(headers) + b"\r\n\r\n" + content + b"\r\n\r\n"
