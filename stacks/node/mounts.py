"""Mounts: reading /proc/self/mountinfo, bind mounts, and the guard that keeps a removal away from mounted trees.

Standard library only, as the supervisor imports it. Linux.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import NodeError

MOUNTINFO = Path("/proc/self/mountinfo")

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_KEPT = {"nosuid": _MS_NOSUID, "nodev": _MS_NODEV, "noexec": _MS_NOEXEC}
_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    mount_id: int
    root: str
    """What of the file system is mounted; not `/` for a bind mount of a folder."""
    path: Path
    options: tuple[str, ...]
    filesystem: str
    super_options: tuple[str, ...]

    @property
    def source_deleted(self) -> bool:
        """Whether what is bound here is no longer to be found at its own place."""
        return self.root.endswith("//deleted")


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts in the order of mounting; see proc_pid_mountinfo(5)."""
    mounts = []
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        fields, tail = front.split(" "), back.split(" ")
        place = Path(_unescape(fields[4]))
        options, super_options = tuple(fields[5].split(",")), tuple(tail[2].split(","))
        mounts.append(Mount(int(fields[0]), _unescape(fields[3]), place, options, tail[0], super_options))
    return mounts


def current_mounts() -> list[Mount]:
    return parse_mountinfo(MOUNTINFO.read_text())


def mounts_below(tree: Path, mounts: list[Mount] | None = None) -> list[Mount]:
    """Mounts at or below `tree`, deepest and latest first, which is the order to unmount them in."""
    tree = Path(os.path.realpath(tree))
    found = [m for m in (current_mounts() if mounts is None else mounts) if m.path == tree or tree in m.path.parents]
    indexed = sorted(enumerate(found), key=lambda item: (len(item[1].path.parts), item[0]), reverse=True)
    return [mount for _, mount in indexed]


def unmount_tree(tree: Path) -> None:
    """Unmount all at or below `tree`, never lazily.

    Raises:
        NodeError: a mount stays (it is busy); nothing was deleted.
    """
    for mount in mounts_below(tree):
        if error := _umount(mount.path, 0):
            raise NodeError(
                f"{mount.path} is still mounted and cannot be unmounted, so nothing below {tree} is deleted.",
                got=f"{mount.filesystem} {mount.root}: {os.strerror(error)}",
                hint=f"end what uses it (fuser -vm {mount.path}), umount {mount.path}, and try again",
            )


def delete_tree(tree: Path) -> None:
    """Delete a folder with all in it; one with a mount in it is never touched, as pods bind the host's own folders.

    Raises:
        NodeError: there is a mount at or below `tree`.
    """
    if mounted := mounts_below(tree):
        raise NodeError(
            f"Refused to delete {tree}: {mounted[0].path} is mounted in it.", hint=f"umount {mounted[0].path}"
        )
    if tree.is_symlink() or tree.is_file():
        tree.unlink()
    elif tree.exists():
        shutil.rmtree(tree)


def mount_tmpfs(target: Path, *, mode: str = "755") -> None:
    """Raises: OSError: the kernel refused."""
    _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode={mode}")


def mount_overlay(target: Path, lower: Path, upper: Path, work: Path) -> None:
    """Raises: OSError: the kernel refused, e.g. as the file system of `upper` cannot hold an overlay."""
    _mount("overlay", target, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Bind a folder or file; the target is made where it is missing.

    Raises:
        OSError: the kernel refused, or the source is not there.
    """
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        source.stat()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=True)
    _mount(str(source), target, None, _MS_BIND, None)
    if read_only:
        found = mounts_below(target)
        kept = sum(flag for name, flag in _KEPT.items() if found and name in found[0].options)
        _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept, None)


def detach(target: Path) -> None:
    """Take a mount out of the tree; who has it open keeps it. Only for the node's own mount namespace.

    Raises:
        OSError: the kernel refused.
    """
    if error := _umount(target, _MNT_DETACH):
        raise OSError(error, os.strerror(error), str(target))


def _mount(source: str, target: Path, filesystem: str | None, flags: int, data: str | None) -> None:
    arguments = [None if text is None else text.encode() for text in (source, str(target), filesystem)]
    if _LIBC.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount of {source}: {os.strerror(error)}", str(target))


def _umount(target: Path, flags: int) -> int:
    return 0 if _LIBC.umount2(str(target).encode(), flags) == 0 else ctypes.get_errno()


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)
