"""Files that are never seen half-written: temporary name, fsync, rename; and their digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sovereign.errors import SovereignError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a reader sees the old or the new content, never a part, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_text(path: Path, *, max_bytes: int = 64 * 2**20) -> str:
    """The UTF-8 text of a file that people write.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `max_bytes`, or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes / 2**20:.0f} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8: save the file as UTF-8"
        ) from None


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file of the same file system its name, under which it is whole also after a crash."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def json_object(data: bytes | str, what: object, error: type[SovereignError], *, hint: str) -> dict[str, Any]:
    """The JSON object that `data` is; a file of state may be empty or cut off, whoever wrote it.

    Args:
        what: the file or key that it is the content of, for the error.

    Raises:
        SovereignError: it is none; of the kind `error`.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise error(f"{what} is damaged: {cause}", expected="JSON", hint=hint) from cause
    if not isinstance(found, dict):
        raise error(f"{what} is damaged", got=type(found).__name__, expected="a JSON object", hint=hint)
    return found


def sqlite_uri(path: Path) -> str:
    """The SQLite database at `path` as SQLAlchemy and MLflow read it.

    They decode percent signs and end the path at a question mark. MLflow also makes the folder that the undecoded text
    names, so where anything is quoted the slashes are too: then that folder is `.`.
    """
    text = str(path)
    return f"sqlite:///{quote(text, safe='') if {'%', '?', '#'} & {*text} else text}"


def room_hint(error: BaseException, folder: Path) -> str | None:
    """What to do where `error` says that nothing more can be written in `folder`; None where it says something else."""
    has_room = not isinstance(error, OSError) or error.errno not in _NO_ROOM
    return None if has_room else f"make room in {folder} and run the same command again"
