"""Web addresses as opt-outs speak of them: by host and path."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from ada_url import URL

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|[0-9a-f:.]*:[0-9a-f:.]*")
"""A name, or an IPv6 address."""
_WITHOUT_SCHEME = re.compile(r"//|[\w-]+(\.[\w-]+)+(:\d+)?(/|\Z)")


class Address(NamedTuple):
    """An http(s) address. Both schemes are one host here."""

    host: str
    """Lower case, IDNA where it has other letters."""
    authority: str
    """The host with its port, where that is not the scheme's own."""
    path: str
    """With the query; other characters than ASCII's are percent-encoded."""

    @property
    def url(self) -> str:
        """The whole address, over https."""
        return f"https://{self.authority}{self.path}"


def parse_address(url: str) -> Address | None:
    """The address in `url`, also without its scheme; None when it is none of http or https.

    It is read as browsers read it (WHATWG): backslashes are slashes, `..` is resolved, tabs and line ends are nothing.
    """
    found = _parse(url)
    return found[1] if found is not None and found[0] in ("http:", "https:") else None


def parse_target(url: str) -> Address | None:
    """What an opt-out names: a host (`example.org`), or an address."""
    return parse_address(url if re.search(r"[\\/]{2}", url) else f"https://{url}")


def _parse(url: str) -> tuple[str, Address] | None:
    """Scheme (`https:`) and address of what has a host."""
    url = url.strip().removeprefix("<").removesuffix(">")
    if _WITHOUT_SCHEME.match(url):
        url = f"https://{url.removeprefix('//')}"
    try:
        parts = URL(url)
    except ValueError:
        return None
    host = parts.hostname.lower().removeprefix("[").removesuffix("]").rstrip(".")
    if not _HOST.fullmatch(host):
        return None
    port = f":{parts.port}" if parts.port not in ("", "80", "443") else ""
    return parts.protocol, Address(host, host + port, (parts.pathname or "/") + parts.search)


def ascii_host(name: str) -> str:
    """A host's name in lower case, in IDNA where it has other letters."""
    name = name.rstrip(".").lower()
    found = parse_address(f"https://{name}/") if not name.isascii() else None
    return found.host if found else name


class UrlSet:
    """Hosts, with all below them, and prefixes of addresses."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._prefixes: dict[str, tuple[str, ...]] = {}

    def add(self, url: str) -> None:
        """Add a host (`example.org`), or a prefix that names a path or begins with https://."""
        found = parse_target(url)
        if found is None:
            raise ValueError(f"{url} is no host and no address")
        if found.path == "/":
            self._hosts.add(found.host)
        else:
            self._prefixes[found.host] = (*self._prefixes.get(found.host, ()), unquote(found.path))

    def remove(self, url: str) -> None:
        """Remove what `add` added for the same host or prefix; nothing where it was not."""
        found = parse_target(url)
        if found is None or found.path == "/":
            self._hosts.discard(found.host if found else url)
            return
        left = tuple(one for one in self._prefixes.get(found.host, ()) if one != unquote(found.path))
        self._prefixes[found.host] = left

    def has(self, url: str) -> bool:
        """Whether `url`, of any scheme, is one of these."""
        parsed = _parse(url)
        if parsed is None:
            return False
        found = parsed[1]
        labels = found.host.split(".")
        if self._hosts and any(".".join(labels[start:]) in self._hosts for start in range(len(labels))):
            return True
        prefixes = self._prefixes.get(found.host)
        return bool(prefixes) and unquote(found.path).startswith(tuple(prefixes or ()))
