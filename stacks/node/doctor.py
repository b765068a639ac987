"""Whether this machine can run the embedded node: named checks, each with what was found and a fix."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import NodeError
from sovereign.packages import NODE_PACKAGES, missing_packages
from stacks.node import cgroups, config, network, processes
from stacks.node.inside import MARKER
from stacks.node.spec import NodeSpec

_CONTROLLERS = {"cpu", "memory", "pids", "cpuset"}
_MIN_DISK_BYTES = 8 << 30
_MIN_MEMORY_BYTES = 3 << 30
_ENDING_S = 0.5
"""A node that is just ending has lost its supervisor a moment before its kubelet."""
_KUBERNETES_FOLDERS = (Path("/etc/kubernetes"), Path("/var/lib/kubelet"))


@dataclass(frozen=True)
class Check:
    """One thing that the node needs."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    fix: str = ""
    """What to do where it is not ok."""


def checks(spec: NodeSpec | None) -> list[Check]:
    """All checks, in the order to fix them in; with a spec also those of its folder, subnets and programs."""
    root = _root()
    kernel = _kernel() if root.ok else ()  # its tries need root
    found = [root, _cgroups(), *kernel, _programs(), _another_kubernetes(), _memory(spec)]
    folder = Path("/") if spec is None else spec.state_dir
    found.append(_disk(folder))
    if spec is not None:
        found += [_binaries(spec), _ranges(spec)]
    return found


def _root() -> Check:
    return Check(
        "root",
        os.geteuid() == 0,
        f"uid {os.geteuid()}",
        "run as root (sudo); without it only an existing cluster and --local work",
    )


def _cgroups() -> Check:
    version = "v1" if cgroups.is_v1() else "v2"
    found = cgroups.controllers()
    if missing := sorted(_CONTROLLERS - found):
        return Check(
            "cgroups",
            False,
            f"{version} without {', '.join(missing)}",
            f"boot with cgroup_enable={missing[0]}, or use cgroup v2",
        )
    return Check("cgroups", True, f"{version} with {', '.join(sorted(_CONTROLLERS & found))}")


def _kernel() -> Iterator[Check]:
    """Each feature is tried in namespaces of its own, which end with the try."""
    tries: dict[str, tuple[list[str], str]] = {
        "namespaces": (["true"], "a kernel with CONFIG_NET_NS, CONFIG_PID_NS; in a container: run it privileged"),
        "veth": (
            ["ip", "link", "add", "try0", "type", "veth", "peer", "name", "try1"],
            "a kernel with CONFIG_VETH (modprobe veth)",
        ),
        "nftables": (
            ["nft", "add", "table", "inet", "try"],
            "a kernel with CONFIG_NF_TABLES (modprobe nf_tables), package nftables",
        ),
    }
    for name, (command, fix) in tries.items():
        problem = _try_isolated(command)
        yield Check(name, not problem, problem or "works", fix)
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    detail = (
        "works" if "overlay" in known else "not loaded: the slower native snapshotter is used unless it loads by itself"
    )
    yield Check("overlayfs", True, detail)


def _try_isolated(command: list[str]) -> str:
    try:
        done = subprocess.run(
            ["unshare", "--net", "--mount", "--pid", "--fork", *command],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _programs() -> Check:
    missing = [package.name for package in missing_packages(NODE_PACKAGES)]
    if config.cni_folder() is None and not missing:
        missing = ["containernetworking-plugins"]
    if missing:
        return Check("packages", False, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    return Check("packages", True, ", ".join(package.name for package in NODE_PACKAGES))


def _another_kubernetes() -> Check:
    """Folders stay empty on the machine while an embedded node runs, so whatever is in them is another's."""
    signs = [
        f"{folder} is not empty"
        for folder in _KUBERNETES_FOLDERS
        if folder.is_dir() and any(entry.name != MARKER for entry in folder.iterdir())
    ]
    if kubelets := processes.foreign_kubelets():
        time.sleep(_ENDING_S)
        kubelets &= processes.foreign_kubelets()
    signs += [f"a kubelet runs (PID {pid})" for pid in sorted(kubelets)]
    if signs:
        fix = "name this cluster in the profile (kubeconfig and context), or take that Kubernetes off the machine first"
        return Check("no other Kubernetes", False, "; ".join(signs), fix)
    return Check("no other Kubernetes", True, "no kubelet, no files of one")


def _memory(spec: NodeSpec | None) -> Check:
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    running = spec is not None and processes.find(spec.state_dir) is not None
    ok = running or available >= _MIN_MEMORY_BYTES
    return Check(
        "memory",
        ok,
        f"{available / 2**30:.1f} GiB available",
        f"free memory: {_MIN_MEMORY_BYTES / 2**30:.0f} GiB are needed",
    )


def _disk(folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    ok = free >= _MIN_DISK_BYTES
    return Check(
        "disk", ok, f"{free / 2**30:.1f} GiB free at {existing}", f"free {_MIN_DISK_BYTES / 2**30:.0f} GiB there"
    )


def _binaries(spec: NodeSpec) -> Check:
    paths = {**spec.binaries, **{f"image {image.name}": image.binary for image in spec.images}}
    if missing := [f"{name} ({path})" for name, path in paths.items() if not os.access(path, os.X_OK)]:
        return Check("upstream programs", False, f"missing: {', '.join(missing)}", "`sovereign tools build`")
    return Check("upstream programs", True, f"{len(paths)} programs")


def _ranges(spec: NodeSpec) -> Check:
    try:
        network.check_free(spec)
    except NodeError as error:
        return Check("subnets", False, f"{error.message} {error.got}", str(error.hint))
    return Check("subnets", True, f"{spec.pod_cidr}, {spec.service_cidr}, {spec.link_cidr}")


def refuse_unfit(spec: NodeSpec) -> None:
    """Raises: NodeError: a check failed; names all that did, each with its fix."""
    refuse([check for check in checks(spec) if not check.ok])


def refuse(failed: Sequence[Check]) -> None:
    """Raises: NodeError: there are `failed` checks."""
    if failed:
        details = "\n".join(f"{check.name}: {check.detail} (fix: {check.fix})" for check in failed)
        raise NodeError("This machine cannot run the embedded node.", got=details)
