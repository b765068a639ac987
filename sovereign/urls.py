"""Web addresses as opt-outs speak of them: by host and path."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ada_url import URL

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|[0-9a-f:.]*:[0-9a-f:.]*")
"""A name, or an IPv6 address."""
_WITHOUT_SCHEME = re.compile(r"[\\/]{2}|[\w-]+(\.[\w-]+)+\.?(:\d+)?([\\/?#]|\Z)")


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
    is_page = found is not None and found[0] in ("http:", "https:") and _HOST.fullmatch(found[1].host)
    return found[1] if found is not None and is_page else None


def parse_target(url: str) -> Address | None:
    """What an opt-out names: a host (`example.org`), or an address."""
    return parse_address(url if re.search(r"[\\/]{2}", url) else f"https://{url}")


def _parse(url: str) -> tuple[str, Address] | None:
    """Scheme (`https:`) and address of what has a host."""
    url = url.strip().removeprefix("<").removesuffix(">")
    if _WITHOUT_SCHEME.match(url):
        url = "https://" + url.lstrip("\\/")
    try:
        parts = URL(url)
        scheme = parts.protocol
        if scheme not in ("http:", "https:") and parts.hostname:  # hosts of other schemes are not brought into one form
            parts = URL("https:" + parts.href.removeprefix(scheme))
    except ValueError:
        return None
    host = parts.hostname.lower().removeprefix("[").removesuffix("]").rstrip(".")
    port = f":{parts.port}" if parts.port not in ("", "80", "443") else ""
    return (scheme, Address(host, host + port, (parts.pathname or "/") + parts.search)) if host else None


def ascii_host(name: str) -> str:
    """A host's name in lower case, in IDNA where it has other letters."""
    name = name.rstrip(".").lower()
    found = parse_address(f"https://{name}/") if not name.isascii() else None
    return found.host if found else name


class UrlSet:
    """Hosts, with all below them, and prefixes of addresses."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._prefixes: dict[str, tuple[bytes, ...]] = {}

    def add(self, url: str) -> None:
        """Add a host (`example.org`), or a prefix that names a path or begins with https://."""
        host, prefix = target_key(url)
        if prefix:
            self._prefixes[host] = (*self._prefixes.get(host, ()), prefix)
        else:
            self._hosts.add(host)

    def remove(self, url: str) -> None:
        """Remove what `add` added for the same host or prefix; nothing where it was not."""
        host, prefix = target_key(url)
        if prefix:
            self._prefixes[host] = tuple(one for one in self._prefixes.get(host, ()) if one != prefix)
        else:
            self._hosts.discard(host)

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
        return bool(prefixes) and unquote_to_bytes(found.path).startswith(tuple(prefixes or ()))

    def touches(self, url: str) -> bool:
        """Whether an address that the host or prefix `url` stands for is one of these."""
        host, prefix = target_key(url)
        below = [one for one in (*self._hosts, *self._prefixes) if f".{one}".endswith(f".{host}")]
        if not prefix:
            return self.has(f"https://{host}/") or any(one in self._hosts or self._prefixes[one] for one in below)
        return self.has(url) or any(one.startswith(prefix) for one in self._prefixes.get(host, ()))


def target_key(url: str) -> tuple[str, bytes]:
    """The host that an opt-out names and the prefix of paths, none for the whole host; alike for all its spellings.

    Raises:
        ValueError: it names none.
    """
    found = parse_target(url)
    if found is None:
        raise ValueError(f"{url} is no host and no address")
    return found.host, b"" if found.path == "/" else unquote_to_bytes(found.path)
