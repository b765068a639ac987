"""What web pages and their hosts say of mining: the files with a host's word, and the word of a page itself.

TDMRep: https://www.w3.org/2022/tdmrep/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sovereign.lake.robots import may_be_trained_on
from sovereign.urls import Address

FILES = {"/robots.txt": "robots.txt", "/ai.txt": "ai.txt", "/.well-known/tdmrep.json": "tdmrep.json"}
"""Path on the host and name of the files in which a host speaks for all its pages."""
_HEAD_BYTES = 2**18
"""How far into a page its meta tags are looked for."""
_META = re.compile(rb"<meta\s([^<>]{1,4000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([a-z-]{1,40})\s*=\s*("[^"]*"|'[^']*'|[^\s"']+)""", re.IGNORECASE)


@dataclass(frozen=True)
class Notice:
    """A page's own word against being trained on."""

    by: str
    """How it was said: `tdm-reservation`, `noai`, `content-usage` or `content-signal`."""


@dataclass(frozen=True)
class HostFile:
    """A host's file as it was collected."""

    authority: str
    name: str
    """Of `FILES`."""
    collected_at: str | None
    """ISO 8601; None when nobody knows."""
    status: int
    """Of the answer, HTTP."""
    content: bytes
    """The file; where the answer was a redirect, the address that it led to."""


def file_name(address: Address | None) -> str | None:
    """Which of the hosts' files an address is, if any."""
    return FILES.get(address.path) if address else None


def read_notice(headers: Iterable[tuple[str, str]], page: bytes) -> Notice | None:
    """The word of a page in its HTTP headers and meta tags; either alone counts, whatever the other or the host says.

    That is stricter than TDMRep's processing priority, by which a meta tag's 0 replaces a header's 1.

    Args:
        headers: names and values.
        page: HTML, or nothing.
    """
    said = [(name.lower(), value) for name, value in headers]
    head = page[: 4 * _HEAD_BYTES].replace(b"\0", b"")  # in UTF-16 and UTF-32 letters of tags have these beside them
    for found in _META.finditer(head, 0, _HEAD_BYTES):
        attributes = {name.lower(): value.strip(b"\"'") for name, value in _ATTRIBUTE.findall(found[1])}
        name, content = (attributes.get(key, b"").decode("ascii", "replace") for key in (b"name", b"content"))
        said.append(({"robots": "x-robots-tag"}.get(name.lower(), name.lower()), content))
    for name, value in said:
        if name == "tdm-reservation" and value.strip() == "1":
            return Notice("tdm-reservation")
        if name in ("content-usage", "content-signal") and may_be_trained_on(value) is False:
            return Notice(name)
        # X-Robots-Tag: noai, or for one agent alone X-Robots-Tag: bot: noai
        if name == "x-robots-tag" and any(
            part.rpartition(":")[2].strip().lower() == "noai" for part in value.split(",")
        ):
            return Notice("noai")
    return None
