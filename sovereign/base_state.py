"""What a site knows of its base, in `state/base.json`: looked up once, so that a plan needs neither folder nor store.

A folder is read again when a file of it changes. An alias of the registry is not followed again by itself: it may point
at the site's own result by then.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sovereign.base import base_files
from sovereign.errors import SiteError
from sovereign.files import write_atomic
from sovereign.profile_base import KnownBase
from sovereign.section import Section

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


class _State(Section):
    model: str
    """As profile or `--from` named it."""
    known: KnownBase
    stamps: dict[str, Stamp]
    """Of the files of a folder; empty where it came from the store."""


def stamps_of(folder: Path) -> dict[str, Stamp]:
    """What tells that a file of the base in `folder` has changed.

    Raises:
        UnusableBaseError: there is no such folder.
    """
    stats = {name: path.stat() for name, path in base_files(folder).items()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def remember(path: Path, model: str, known: KnownBase, stamps: dict[str, Stamp]) -> None:
    """Write down in the file `path` what the base `model` is."""
    write_atomic(path, _State(model=model, known=known, stamps=stamps).model_dump_json(indent=1) + "\n")


def recall(path: Path, model: str) -> tuple[KnownBase, dict[str, Stamp]] | None:
    """What is written down about the base `model`, if anything.

    Raises:
        SiteError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = _State.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SiteError(f"{path} is damaged", hint="remove it; it is made again") from error
    return (state.known, state.stamps) if state.model == model else None
