"""The node's own view of the machine: cgroup, mounts and network, set up by the supervisor before all else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sovereign.errors import NodeError
from stacks.node import cgroups, config, mounts, network
from stacks.node.spec import NodeSpec

MOUNT_POINTS = (Path("/etc/kubernetes"), Path("/var/lib/kubelet"), Path("/var/lib/cni"))
"""Folders that must be there on the machine for the node to mount its own over them; they stay empty on the machine."""
MARKER = ".sovereign-mount-point"
"""File in a mount point that the kit made, so that its last node takes the folder away again."""

_MARKER_TEXT = (
    "Made by the sovereign kit as an empty mount point of its embedded node; removed with the last such node.\n"
)
_CAP_SYS_RESOURCE = 24


def isolate(spec: NodeSpec) -> None:
    """Set up cgroup, mounts and network; called once, in new namespaces.

    Raises:
        NodeError: a part cannot be set up.
    """
    cgroups.join(spec.cgroup)
    make_mount_points()
    bind_host_folders(spec)
    try:
        for source, target in (
            (spec.kubernetes_dir, MOUNT_POINTS[0]),
            (spec.state_dir / "kubelet", MOUNT_POINTS[1]),
            (spec.log_dir, Path("/var/log")),
        ):
            source.mkdir(mode=0o700, parents=True, exist_ok=True)
            mounts.bind(source, target)
        for target in (MOUNT_POINTS[2], Path("/run")):
            mounts.mount_tmpfs(target)
        for folder in (config.RUN_DIR, Path("/run/netns"), Path("/run/lock"), Path("/run/tmp")):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise NodeError("The node cannot set up its own mounts.", got=str(error)) from error
    network.configure_inside(spec)


def make_mount_points() -> None:
    """Make the mount points that the machine lacks, marked as the kit's own."""
    for folder in MOUNT_POINTS:
        if not folder.exists():
            folder.mkdir(mode=0o755, parents=True)
            (folder / MARKER).write_text(_MARKER_TEXT)


def bind_host_folders(spec: NodeSpec) -> None:
    """Make the mounts below `spec.host_volume` those that `spec.binds` names, read-only.

    Raises:
        NodeError: a folder is not there or cannot be bound.
    """
    spec.host_volume.mkdir(mode=0o755, exist_ok=True)
    wanted = {in_volume(spec, source): source for source in sorted(spec.binds)}
    kept = set()
    for mount in mounts.mounts_below(spec.host_volume):
        if mount.path in wanted and not mount.source_deleted:
            kept.add(mount.path)
        else:
            mounts.detach(mount.path)
    for target, source in wanted.items():
        if target not in kept:
            try:
                mounts.bind(source, target, read_only=True)
            except OSError as error:
                raise NodeError(
                    f"The folder {source} cannot be given to pods.",
                    got=str(error),
                    hint="it must exist on this machine",
                ) from error


def in_volume(spec: NodeSpec, source: Path) -> Path:
    """Where a host folder lies below `spec.host_volume`; without the front part it is the subPath for pods."""
    return spec.host_volume / source.relative_to("/")


def has_stale_binds(spec: NodeSpec, supervisor_pid: int) -> bool:
    """Whether a folder that the node has bound was deleted, and perhaps made anew, on the machine since."""
    try:
        found = mounts.parse_mountinfo(Path("/proc", str(supervisor_pid), "mountinfo").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has just ended, which `health` says
    return any(mount.source_deleted for mount in mounts.mounts_below(spec.host_volume, found))


def inspect(spec: NodeSpec) -> config.Machine:
    """What the configuration depends on.

    Raises:
        NodeError: kubeadm cannot be run.
    """
    kubeadm = spec.binaries["kubeadm"]
    try:
        version = subprocess.run(
            [kubeadm, "version", "-o", "short"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NodeError("kubeadm cannot be run.", got=str(error)) from error
    capabilities = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")
    )
    return config.Machine(
        cgroup_v1=cgroups.is_v1(),
        can_lower_oom_score=bool(int(capabilities.split()[1], 16) >> _CAP_SYS_RESOURCE & 1),
        snapshotter="overlayfs" if _can_overlay(spec.state_dir / "containerd") else "native",
        kubernetes_version=version,
    )


def _can_overlay(folder: Path) -> bool:
    """Whether the file system of the folder takes an overlay; tried, as no list of file systems says it."""
    probe = folder / "overlay-probe"
    lower, upper, work, merged = (probe / name for name in ("lower", "upper", "work", "merged"))
    for part in (lower, upper, work, merged):
        part.mkdir(parents=True, exist_ok=True)
    try:
        mounts.mount_overlay(merged, lower, upper, work)
    except OSError:
        return False
    else:
        mounts.detach(merged)
        return True
    finally:
        mounts.delete_tree(probe)
