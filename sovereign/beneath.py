"""Files below a folder that others fill, opened without ever leaving it: a link that leads out is refused.

The path is resolved first, and then walked from the folder's own descriptor without following any link, so that nobody
can swap a part of it for a link in between. (Linux's openat2 with RESOLVE_BENEATH would do both at once; Python has it
not, and older kernels neither.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath


class OutsideError(ValueError):
    """A name or link leads out of its folder."""


class NotAFileError(ValueError):
    """A folder, pipe, socket or device; opening one might wait for ever or do something."""


@contextmanager
def open_beneath(root: Path, name: str) -> Iterator[Path]:
    """A path that opens the file `name` of the folder `root`, whatever happens to the names meanwhile.

    Links in `root` itself are followed, and links below it that stay below it.

    Raises:
        OutsideError: it leads out of `root`.
        NotAFileError: it is no regular file.
        OSError: it cannot be opened.
    """
    real_root = Path(os.path.realpath(root, strict=True))
    real = Path(os.path.realpath(real_root / name, strict=True))
    if real_root not in real.parents:
        raise OutsideError(f"{name} leads out of {root}")
    descriptor = os.open(real_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in real.relative_to(real_root).parts:
            # O_PATH opens nothing but the name, so that a pipe or a device is only looked at.
            following = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(f"{name} is no regular file")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def join_beneath(folder: Path, name: str) -> Path:
    """The file `name`, which data chose, of `folder`.

    Raises:
        OutsideError: the name is absolute, or has a part that leads up, or none.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name:
        raise OutsideError(f"{name!r:.100} leads out of its folder")
    return folder.joinpath(*parts)
