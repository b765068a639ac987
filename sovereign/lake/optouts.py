"""Opt-outs that machines can read, of the time when a page was collected: robots.txt, ai.txt, TDMRep, noai.

Of a host's file the newest that is not younger than the page counts, else the first one after; and the newest of all,
for who opts out later. robots.txt is read as RFC 9309 says (by protego): longest match, 4xx allows all, 5xx forbids
all, redirects are followed; and with what it says of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, time
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urljoin

from sovereign.lake.notices import FILES, HostFile, Notice, file_name
from sovereign.lake.robots import Robots, host_text, read_robots
from sovereign.lake.scratch import open_scratch
from sovereign.urls import Address, parse_address

if TYPE_CHECKING:
    from protego import Protego

_PATHS = {name: path for path, name in FILES.items()}
_MAX_REDIRECTS = 5
"""https://www.rfc-editor.org/rfc/rfc9309#section-2.3.1.2"""
_LARGE_BYTES = 2**15
_CACHED, _CACHED_LARGE = 512, 8
"""Parsed files below and above `_LARGE_BYTES` that are kept; one takes some 20 times its bytes."""
_LATEST = "9999"
_UNAVAILABLE = "robots.txt could not be had"
_FIND = "SELECT authority, name, time, status, length(content) FROM file WHERE authority = ? AND name = ? AND time "
_NEWEST_BEFORE, _FIRST_AFTER = f"{_FIND}<= ? ORDER BY time DESC", f"{_FIND}> ? ORDER BY time"


class _Key(NamedTuple):
    """A file, without its content."""

    authority: str
    name: str
    time: str
    status: int
    num_bytes: int


class OptOuts:
    """The hosts' files of one source, in an SQLite file, so that memory stays bounded; a context manager."""

    def __init__(self, path: Path, agents: Sequence[str], *, retroactive: bool = True) -> None:
        """Args: `agents` are names that robots.txt and ai.txt are read for; `retroactive`: the newest counts too."""
        self._path, self._agents, self._retroactive = path, tuple(agents), retroactive
        self._small = lru_cache(_CACHED)(self._parse)
        self._large = lru_cache(_CACHED_LARGE)(self._parse)

    def __enter__(self) -> Self:
        self._database = open_scratch(self._path)
        self._database.execute(
            "CREATE TABLE file (authority TEXT, name TEXT, time TEXT, status INTEGER, content BLOB, "
            "PRIMARY KEY (authority, name, time)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._path.unlink(missing_ok=True)

    def add(self, file: HostFile) -> None:
        """Take a host's file; of two of the same time the first counts. Without a time it is older than any other."""
        row = (file.authority, file.name, to_utc(file.collected_at) or "", file.status, file.content)
        self._database.execute("INSERT OR IGNORE INTO file VALUES (?, ?, ?, ?, ?)", row)

    def digest(self) -> str:
        """Hex SHA-256 over all files and settings: the same digest, the same answers."""
        total = hashlib.sha256(json.dumps([self._agents, self._retroactive]).encode())
        for *key, content in self._database.execute("SELECT * FROM file ORDER BY authority, name, time"):
            total.update(json.dumps([*key, hashlib.sha256(content).hexdigest()]).encode())
        return total.hexdigest()

    def reason(self, url: str | None, collected_at: str | None, notice: Notice | None) -> str:
        """Why a page must not be trained on, or nothing.

        Args:
            url: the page's address.
            collected_at: ISO 8601; where it is not known, the newest of the host's files counts.
            notice: what the page itself says.
        """
        if notice is not None:
            return f"opted out: {notice.by}"
        address = parse_address(url) if url else None
        if address is None:
            return ""
        moment = to_utc(collected_at, end_of_day=True) or _LATEST
        judged: set[_Key] = set()
        if name := self._forbidding(address, moment, judged):
            return f"opted out: {name}"
        later = self._forbidding(address, _LATEST, judged) if self._retroactive else ""
        return f"opted out later: {later}" if later and later != _UNAVAILABLE else ""

    def _forbidding(self, address: Address, moment: str, judged: set[_Key]) -> str:
        """Which of the host's files as they were at `moment` forbids the page, or nothing; not again those `judged`."""
        for name in ("tdmrep.json", "ai.txt", "robots.txt"):
            file = self._find(address.authority, name, moment)
            if file is None or file in judged:
                continue
            judged.add(file)
            if name == "robots.txt" and file.status >= 500:
                return _UNAVAILABLE
            if name == "tdmrep.json":
                if self._is_reserved(file, address):
                    return name
                continue
            robots: Robots = self._parsed(file)
            if not self._allow(robots.fetching, address):
                return name
            if robots.training is not None and not self._allow(robots.training, address):
                return f"{name} says no AI training"
        return ""

    def _allow(self, rules: Protego, address: Address) -> bool:
        """Whether the rules let every agent have the page."""
        return all(rules.can_fetch(address.url, agent) for agent in self._agents)

    def has_robots(self, url: str | None) -> bool:
        """Whether the host of `url` has answered for robots.txt, be it that there is none; true without an address.

        What is no address has no host that could have answered.
        """
        if not url:
            return True
        address = parse_address(url)
        if address is None:
            return False
        query = "SELECT 1 FROM file WHERE authority = ? AND name = 'robots.txt'"
        return self._database.execute(query, (address.authority,)).fetchone() is not None

    def _find(self, authority: str, name: str, moment: str) -> _Key | None:
        """The host's file at `moment`, followed where it led to; None where there was none."""
        for _ in range(1 + _MAX_REDIRECTS):
            wanted = (authority, name, moment)
            row = self._database.execute(_NEWEST_BEFORE, wanted).fetchone()
            row = row or self._database.execute(_FIRST_AFTER, wanted).fetchone()
            if row is None or 400 <= row[3] < 500:
                return None
            if not 300 <= row[3] < 400:
                return _Key(*row)
            address = _follow(f"https://{authority}{_PATHS[name]}", self._content(_Key(*row)))
            if address is None or file_name(address) != name:
                return None
            authority = address.authority
        return None

    def _content(self, key: _Key) -> bytes:
        query = "SELECT content FROM file WHERE authority = ? AND name = ? AND time = ?"
        content: bytes = self._database.execute(query, key[:3]).fetchone()[0]
        return content

    def _parsed(self, key: _Key) -> Any:
        return (self._small if key.num_bytes < _LARGE_BYTES else self._large)(key)

    def _parse(self, key: _Key) -> Robots | list[tuple[Protego, bool]]:
        """Rules of a file; of tdmrep.json, what each matches and whether it reserves rights, none if damaged."""
        from protego import Protego

        if key.name != "tdmrep.json":
            return read_robots(host_text(self._content(key)))
        try:
            # Objects as pairs: what is reserved once stays so, whatever the same object says again.
            rules = json.loads(host_text(self._content(key)), object_pairs_hook=tuple)
        except (ValueError, RecursionError):
            return []
        found = []
        for rule in rules if isinstance(rules, list) else ():
            pairs = rule if isinstance(rule, tuple) else ()
            is_reserved = any(name == "tdm-reservation" and value in (1, "1") for name, value in pairs)
            for name, location in pairs:
                if name == "location" and isinstance(location, str):
                    # Its patterns are those of robots.txt.
                    matches = Protego.parse(f"User-agent: *\nDisallow: {' '.join(location.split())}")
                    found.append((matches, is_reserved))
        return found

    def _is_reserved(self, key: _Key, address: Address) -> bool:
        """What the first rule says that matches."""
        rules = self._parsed(key)
        return next((reserved for matches, reserved in rules if not matches.can_fetch(address.url, "*")), False)


def _follow(url: str, location: bytes) -> Address | None:
    """Where a redirect from `url` leads."""
    try:
        return parse_address(urljoin(url, location.decode(errors="replace")))
    except ValueError:
        return None


def to_utc(moment: str | None, *, end_of_day: bool = False) -> str | None:
    """A time that sorts as text: in UTC, to the second; a date is its first second, or its last."""
    if not moment:
        return None
    try:
        found = datetime.fromisoformat(moment)
        if len(moment) <= len("2026-05-01") and end_of_day:
            found = datetime.combine(found, time.max)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be before the year 1
        return None
    return found.strftime("%Y-%m-%dT%H:%M:%S")
