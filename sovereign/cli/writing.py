"""Files that a command writes for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sovereign.errors import PublicationError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: PublicationError: the block inside could not write `path`."""
    try:
        yield
    except OSError as error:
        raise PublicationError(f"cannot write {path}: {error}") from error
