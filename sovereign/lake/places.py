"""The place of every record in its file, which no other record of the file has; documents are named by it."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType
from typing import Any, Self

from sovereign.lake.scratch import no_room, open_scratch

_CACHE_KIB = 2**16


class Places:
    """Those of one file; a context manager. What its ids have taken lies in SQLite, so that memory stays bounded."""

    def __init__(self, folder: Path | None) -> None:
        """Args: `folder` is for a scratch file, some 20 bytes for each id; None: the system's for temporary files."""
        self._path = folder / "places.sqlite" if folder else None
        self._database: sqlite3.Connection | None = None
        self._is_numbered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises: OSError when there was no room for the scratch file."""
        if self._database is not None:
            self._database.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if full := no_room(error, self._path or gettempdir()):
            raise full from error

    def find(self, where: str, own: Any) -> str:
        """The place by the record's own id, else by its number; by both where that was taken before.

        Args:
            where: file and number, `FILE#NUMBER`.
            own: the id, or None.
        """
        file, _, number = where.rpartition("#")
        if own is None:
            if not self._has(number):
                self._is_numbered = True
                return where
            place = f"{number}#{number}"
        else:
            place = str(own)
            if self._is_numbered and place.isdecimal() and len(place) <= len(number) and int(place) < int(number):
                place += f"#{number}"  # an earlier record may have this number as its place
        while not self._take(place):
            place += f"#{number}"
        return f"{file}#{place}"

    def _has(self, place: str) -> bool:
        if self._database is None:
            return False
        found = self._database.execute("SELECT 1 FROM place WHERE digest = ?", (_digest(place),))
        return found.fetchone() is not None

    def _take(self, place: str) -> bool:
        """Whether it was free."""
        if self._database is None:
            self._database = self._open()
        return self._database.execute("INSERT OR IGNORE INTO place VALUES (?)", (_digest(place),)).rowcount == 1

    def _open(self) -> sqlite3.Connection:
        database = open_scratch(self._path)
        database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        database.execute("CREATE TABLE place (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        database.execute("BEGIN")
        return database


def _digest(place: str) -> bytes:
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).digest()[:12]
