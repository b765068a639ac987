"""What a WARC record holds of an answer: without its chunks and its HTTP content coding (gzip, deflate, br, zstd)."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import pyarrow as pa

from sovereign.lake import records

_CODECS: dict[str, Literal["gzip", "brotli", "zstd"]] = {
    "gzip": "gzip", "x-gzip": "gzip", "br": "brotli", "zstd": "zstd",
}  # fmt: skip
"""pyarrow's names, https://www.iana.org/assignments/http-parameters/http-parameters.xhtml#content-coding."""
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


def read_content(record: Any) -> tuple[bytes, str]:
    """What a record of warcio's holds, without chunks and content coding; and why it is not whole, or nothing."""
    from warcio.bufferedreaders import ChunkedDataReader

    headers = [] if record.http_headers is None else record.http_headers.headers
    values = {key.lower(): value.strip().lower() for key, value in headers}
    is_chunked = values.get("transfer-encoding") == "chunked"
    stream = ChunkedDataReader(record.raw_stream) if is_chunked else record.raw_stream
    body = stream.read(records.MAX_FILE_BYTES + 1)
    coded = [value.lower().split(",") for key, value in headers if key.lower() == "content-encoding"]
    codings = [name.strip() for names in coded for name in names if name.strip() not in ("", "identity")]
    damage = "truncated WARC record" if record.rec_headers.get_header("WARC-Truncated") else ""
    try:
        content = _decode_content(body, codings) if codings else body
    except (pa.ArrowException, OSError, zlib.error):
        return b"", damage or "truncated or damaged content encoding"
    except LookupError:
        return b"", damage or "content encoding that is not known"
    return content, "document too large" if len(content) > records.MAX_FILE_BYTES else damage


def _decode_content(body: bytes, codings: list[str]) -> bytes:
    """At most one byte more than the limit.

    Raises:
        ArrowException, OSError, zlib.error: it is damaged or cut.
        LookupError: a coding that is not known, or more than one.
    """
    coding, limit = ", ".join(codings), records.MAX_FILE_BYTES + 1
    if coding == "deflate":  # with the header of zlib; some servers leave it out
        try:
            return _inflate(body, zlib.MAX_WBITS, limit)
        except zlib.error:
            return _inflate(body, -zlib.MAX_WBITS, limit)
    codec = _CODECS[coding]
    if not body.startswith(_MAGIC.get(codec, b"")):  # decoded by the crawler, which kept the header
        return body
    return pa.CompressedInputStream(pa.BufferReader(body), codec).read(limit)


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    expander = zlib.decompressobj(window_bits)
    content = expander.decompress(body, limit)
    if body and not expander.eof and len(content) < limit:
        raise zlib.error
    return content
