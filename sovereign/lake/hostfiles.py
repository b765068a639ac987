"""Hosts' own files (robots.txt, ai.txt, tdmrep.json) as they were collected: from WARC files and from folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from sovereign.beneath import NotAFileError, OutsideError, open_beneath
from sovereign.errors import SourceError
from sovereign.files import sha256_file
from sovereign.lake.archives import parse_answer, split_warc
from sovereign.lake.notices import FILES, HostFile, file_name
from sovereign.lake.opening import open_expanded, split_compression
from sovereign.lake.records import Unreadable
from sovereign.urls import ascii_host, parse_address

MAX_BYTES = 500 * 1024
"""So much of a file is looked at: https://www.rfc-editor.org/rfc/rfc9309#section-2.5."""
_WARC_SUFFIXES = (".warc", ".wet", ".arc")
_URI = re.compile(
    rb"\r?\nwarc-target-uri:[ \t]*<?https?://[^/\s]+(?:%s)>?[ \t]*\r?\n" % "|".join(map(re.escape, FILES)).encode(),
    re.IGNORECASE,
)
_HEADER_BYTES = 2**16
_UNAVAILABLE = 503


def is_warc(name: str) -> bool:
    """Whether a file of this name holds WARC records."""
    return split_compression(name)[0].lower().endswith(_WARC_SUFFIXES)


def read_warc_files(path: Path, name: str, *, is_sources: bool = True) -> Iterator[HostFile]:
    """The hosts' files in the WARC file at `path`.

    Args:
        is_sources: damage is passed over, since ingest counts it when it reads this file of a source.

    Raises:
        SourceError: another file, or a record of it, cannot be read.
    """
    try:
        with open_expanded(path, name) as expanded:
            for record in split_warc(expanded):
                try:
                    if found := _read(record, is_sources=is_sources):
                        yield found
                except Unreadable:
                    if not is_sources:
                        raise
    except (Unreadable, OSError) as error:
        if not is_sources:
            raise SourceError(f"cannot read {name}: {error}", hint="make it again, or take it away") from error


def _read(record: bytes | Unreadable, *, is_sources: bool) -> HostFile | None:
    if isinstance(record, Unreadable):
        raise record
    answer = parse_answer(record, only_ok=False) if _URI.search(record, 0, _HEADER_BYTES) else None
    address = parse_address(answer.url) if answer else None
    name = file_name(address)
    if answer is None or address is None or name is None:
        return None
    status = int(answer.status) if answer.status and answer.status.isdecimal() else 200
    if status == 304:  # as it was before
        return None
    if answer.damage and status < 300 and len(answer.content) < MAX_BYTES:
        if not is_sources:
            raise Unreadable(answer.damage)
        status = _UNAVAILABLE  # rules that cannot be read may forbid all
    content = answer.header("location").encode() if 300 <= status < 400 else answer.content[:MAX_BYTES]
    return HostFile(address.authority, name, answer.date, status, content)


def read_collected(folder: Path) -> Iterator[HostFile]:
    """The hosts' files in `folder`: `HOST/robots.txt` and so on, perhaps below a date, and in WARC files.

    Raises:
        SourceError: the folder is not there, or a file cannot be read.
    """
    for name in _list_collected(folder):
        if is_warc(name):
            with _opened(folder, name) as path:
                yield from read_warc_files(path, name, is_sources=False)
            continue
        first, *rest = Path(name).parts
        day = _day(first)
        host, *rest = rest if day and rest else [first, *rest]
        if kind := FILES.get("/" + "/".join(rest)):
            with _opened(folder, name) as path, path.open("rb") as file:
                content = file.read(MAX_BYTES)
            yield HostFile(ascii_host(host), kind, day, 200, content)


def collected_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Name in `folder` and hex SHA-256 of each of its files.

    Raises:
        SourceError: the folder is not there, or a file cannot be read.
    """
    for name in _list_collected(folder):
        with _opened(folder, name) as path:
            digest = sha256_file(path)
        yield name, digest


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[Path]:
    """Raises: SourceError: the file `name` cannot be read, or is a link that leads out of `folder`."""
    try:
        with open_beneath(folder, name) as path:
            yield path
    except (OSError, OutsideError, NotAFileError) as error:
        raise SourceError(f"cannot read {folder / name}: {error}") from error


def _list_collected(folder: Path) -> Iterator[str]:
    """Names of the files in `folder`."""
    if not folder.is_dir():
        raise SourceError(
            "the folder of collected opt-outs is not there",
            got=folder,
            hint="correct corpus.rights.opt_outs.collected in the profile",
        )
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def _day(name: str) -> str | None:
    with suppress(ValueError):
        return date.fromisoformat(name).isoformat()
    return None
