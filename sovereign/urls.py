"""Web addresses as opt-outs speak of them: by host and path."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = (None, 80, 443)
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
    """With the query, as it was written."""

    @property
    def url(self) -> str:
        """The whole address, over https."""
        return f"https://{self.authority}{self.path}"


def parse_address(url: str) -> Address | None:
    """The address in `url`, also without its scheme; None when it is none of http or https."""
    url = url.strip().removeprefix("<").removesuffix(">")
    if _WITHOUT_SCHEME.match(url):
        url = f"https://{url.removeprefix('//')}"
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not name:
        return None
    host = ascii_host(name)
    if not _HOST.fullmatch(host):
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(host, host if port in _DEFAULT_PORTS else f"{host}:{port}", path)


def parse_target(url: str) -> Address | None:
    """What an opt-out names: a host (`example.org`), or an address."""
    return parse_address(url if "//" in url else f"https://{url}")


def ascii_host(name: str) -> str:
    """A host's name in lower case, in IDNA where it has other letters."""
    name = name.rstrip(".").lower()
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


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

    def has(self, url: str) -> bool:
        """Whether `url` is one of these."""
        found = parse_address(url)
        if found is None:
            return False
        labels = found.host.split(".")
        if self._hosts and any(".".join(labels[start:]) in self._hosts for start in range(len(labels))):
            return True
        prefixes = self._prefixes.get(found.host)
        return prefixes is not None and unquote(found.path).startswith(prefixes)
