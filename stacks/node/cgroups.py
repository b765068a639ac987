"""The node's cgroups: one folder `sovereign-<instance>` below the visible root of every hierarchy, v1 and v2.

The supervisor and what it starts live in its child `system`; the kubelet makes `kubepods` beside it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from sovereign.errors import NodeError
from stacks.node.mounts import Mount, current_mounts

_SYSTEM = "system"
_NEEDED = {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}


def hierarchies(mounts: list[Mount] | None = None) -> list[Path]:
    """Mount points of all cgroup hierarchies."""
    found = current_mounts() if mounts is None else mounts
    return sorted({mount.path for mount in found if mount.filesystem in ("cgroup", "cgroup2")})


def is_v1(mounts: list[Mount] | None = None) -> bool:
    """Whether resources are controlled by version 1 (pure v1 or hybrid)."""
    return any(mount.filesystem == "cgroup" for mount in (current_mounts() if mounts is None else mounts))


def controllers() -> set[str]:
    """Names of the controllers that are there, whatever the version."""
    found: set[str] = set()
    for mount in current_mounts():
        if mount.filesystem == "cgroup":
            found.update(mount.super_options)
        elif mount.filesystem == "cgroup2":
            found.update((mount.path / "cgroup.controllers").read_text().split())
    return found


def join(name: str) -> None:
    """Move the calling process into `<name>/system` of every hierarchy, making it where it is missing.

    Raises:
        NodeError: the kernel refused.
    """
    for root in hierarchies():
        group = root / name
        try:
            _enable_controllers(root)
            group.mkdir(exist_ok=True)
            _enable_controllers(group)
            (group / _SYSTEM).mkdir(exist_ok=True)
            for folder in (group, group / _SYSTEM):
                _inherit_cpuset(folder)
            (group / _SYSTEM / "cgroup.procs").write_text("0")
        except OSError as error:
            raise NodeError(
                f"The node cannot make its cgroup {group}.",
                got=str(error),
                hint="run on the machine itself or in a container with a writable cgroup tree",
            ) from error


def processes(name: str) -> set[int]:
    """PIDs in the cgroup and below, in any hierarchy, as this process sees them."""
    found: set[int] = set()
    for root in hierarchies():
        for folder, _, files in os.walk(root / name):
            if "cgroup.procs" in files:
                try:
                    found.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
                except FileNotFoundError:
                    continue
    return found


def remove(name: str, *, timeout_s: float = 10.0) -> None:
    """Remove the cgroup with all below it, in every hierarchy.

    Raises:
        NodeError: one stays after `timeout_s`, e.g. as a process is in it.
    """
    deadline = time.monotonic() + timeout_s
    while left := _remove_once(name):
        if time.monotonic() > deadline:
            raise NodeError(
                f"The cgroup {left[0]} cannot be removed.", got=f"processes in it: {sorted(processes(name)) or 'none'}"
            )
        time.sleep(0.1)


def _remove_once(name: str) -> list[Path]:
    left = []
    for root in hierarchies():
        for folder, _, _ in os.walk(root / name, topdown=False):
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(Path(folder))
    return left


def _enable_controllers(group: Path) -> None:
    """Version 2 only: let the children of a group use what the kubelet needs."""
    if (group / "cgroup.controllers").exists():
        available = set((group / "cgroup.controllers").read_text().split())
        enabled = set((group / "cgroup.subtree_control").read_text().split())
        if wanted := sorted((available & _NEEDED) - enabled):
            (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))


def _inherit_cpuset(group: Path) -> None:
    """A new v1 cpuset has neither CPUs nor memory nodes and takes no process."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (
            (group / file).exists()
            and (group / "notify_on_release").exists()
            and not (group / file).read_text().strip()
        ):
            (group / file).write_text((group.parent / file).read_text())
