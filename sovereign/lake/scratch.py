"""Scratch databases in SQLite, for what would take too much memory; nobody reads one that was cut off."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path


def open_scratch(path: Path | None) -> sqlite3.Connection:
    """A new database without a journal in the file `path`, in the place of what is there; None: in a temporary file."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    database = sqlite3.connect(path or "", isolation_level=None)
    for setting in ("journal_mode=OFF", "synchronous=OFF"):
        database.execute(f"PRAGMA {setting}")
    return database


def no_room(error: BaseException | None, path: Path | str) -> OSError | None:
    """The error of a full disk that names `path`, where `error` is SQLite's of one."""
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return None
