"""A lock between processes that ends with its holder, however that ends. Standard library only.

A program started with ``close_fds=False`` while the lock is held shares it: when its parent is killed, the next holder
waits until that program, which may still be writing, has ended too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sovereign.errors import LockedError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of shared file systems that were mounted without locks: there nobody can be refused."""


@contextmanager
def hold(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; when another process has it, call `on_wait` once and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        yield


@contextmanager
def refuse_second(path: Path, what: str, **holder: str) -> Iterator[None]:
    """Hold the lock file `path`, or refuse when another process has it; it names its holder for people and `holder_of`.

    Args:
        path: the lock file; made where it is missing, and never removed.
        what: what is locked, for the error.
        holder: said of this process, beside its number and the time.

    Raises:
        LockedError: another process holds it; the message says which and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"{what} is in use",
                got=path.read_text(encoding="utf-8", errors="replace") or "unknown",
                hint="wait for it to end, or stop it; then run this again",
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder | {"pid": os.getpid(), "since": since}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> dict[str, Any] | None:
    """What the process that holds `path` said of itself; None when nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # it is about to write it
            return {}
        return holder
    finally:
        os.close(descriptor)
    return None
