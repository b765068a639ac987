"""Taking a node off the machine, and clearing what a killed one left. Nothing here follows a mount."""

from __future__ import annotations

import time

from sovereign.errors import NodeError
from stacks.node import cgroups, mounts, network, processes
from stacks.node.inside import MARKER, MOUNT_POINTS
from stacks.node.spec import NodeSpec

LOCK = "lock"
_GONE_S = 5.0
_LAST = ("node.json", LOCK)
"""Deleted after all else, so that a removal that was cut off is taken up again."""


def end_processes(spec: NodeSpec, *, gracefully: bool) -> None:
    """End the node's processes and clear what they leave in the kernel.

    Raises:
        NodeError: a process or cgroup stays.
    """
    if supervisor := processes.find(spec.state_dir):
        processes.end(supervisor, gracefully=gracefully)
    clear_remains(spec)


def clear_remains(spec: NodeSpec) -> None:
    """Remove link and cgroups of a node whose supervisor is gone.

    Raises:
        NodeError: processes are still in the node's cgroups; nothing was removed.
    """
    deadline = time.monotonic() + _GONE_S
    while pids := cgroups.processes(spec.cgroup):
        if time.monotonic() > deadline:
            raise NodeError(
                f"Processes run in the cgroup {spec.cgroup}, but no supervisor of {spec.state_dir}.",
                got=f"PIDs {sorted(pids)}",
                hint=f"another node has the instance name {spec.instance}: see `ps -ef | grep {processes.MODULE}`",
            )
        time.sleep(0.1)
    network.wait_gone(spec)
    cgroups.remove(spec.cgroup)


def delete_files(spec: NodeSpec, *, delete_data: bool) -> None:
    """Delete what is in the state folder, data volumes only if `delete_data`; then the folder itself where it is empty.

    Raises:
        NodeError: a mount below the state folder stays; nothing was deleted.
    """
    if supervisor := processes.find(spec.state_dir):
        raise NodeError(f"The node {spec.instance} still runs (PID {supervisor.pid}), so its files are not deleted.")
    kept = set(_LAST)
    if not delete_data and spec.volumes_dir.is_dir() and any(spec.volumes_dir.iterdir()):
        kept.add(spec.volumes_dir.name)
    doomed = [entry for entry in spec.state_dir.iterdir() if entry.name not in kept]
    for entry in doomed:
        mounts.unmount_tree(entry)
    for entry in doomed:
        mounts.delete_tree(entry)
    for name in _LAST:
        (spec.state_dir / name).unlink(missing_ok=True)
    if not any(spec.state_dir.iterdir()) and not mounts.mounts_below(spec.state_dir):
        spec.state_dir.rmdir()


def remove_mount_points() -> None:
    """Remove the empty mount points that the kit made, unless a node of it runs, which would lose its mounts."""
    if processes.supervisors():
        return
    for folder in MOUNT_POINTS:
        marker = folder / MARKER
        if marker.exists() and [entry.name for entry in folder.iterdir()] == [MARKER]:
            marker.unlink()
            folder.rmdir()
