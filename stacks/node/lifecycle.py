"""Make, adopt, repair, stop and remove one instance of the embedded node.

Every function may be called at any moment and again after it was killed: what there is of a node is read from the
kernel (its supervisor's process) and from its state folder, never from memory. Linux, root. See docs/node.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import NodeError
from sovereign.files import write_atomic
from sovereign.locks import hold
from stacks.node import doctor, inside, mounts, network, processes, removal, unit
from stacks.node.bootstrap import initialised
from stacks.node.children import tail
from stacks.node.health import HealthCheck, NodeHealth, query
from stacks.node.health import check as health
from stacks.node.spec import NodeSpec
from stacks.node.status import RUNNING, Status

__all__ = ["HealthCheck", "NodeHealth", "NodeInfo", "ensure", "health", "remove", "stop"]

_UP_S = 300.0
"""Time that a start may take; a slow disk makes the import of images slow."""
_SELF_REPAIR_S = 60.0
"""Time that a running supervisor gets to bring a sick node back by itself."""
_FIXED = ("instance", "pod_cidr", "service_cidr", "link_cidr")
"""Fields that cannot change during a cluster's life."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class NodeInfo:
    """Where the node can be reached."""

    kubeconfig: Path
    """The administrator's, mode 0600, good on this machine."""
    api_server: str
    cluster_uid: str
    """UID of kube-system."""
    host_volume: Path
    """Folder with only the bind mounts, for the PersistentVolume that pods mount by subPath."""
    volumes_dir: Path
    """Folder for hostPath volumes of data."""


def ensure(spec: NodeSpec, progress: Progress) -> NodeInfo:
    """Bring the node to what `spec` says: create it, adopt it when healthy, repair it with its data when not.

    Raises:
        NodeError: the machine is not fit or another's, the spec clashes with what is there, or the node stays down.
    """
    with _locked(spec, progress):
        known = NodeSpec.load(spec.state_dir)
        _refuse_other_identity(known, spec)
        supervisor = processes.find(spec.state_dir)
        if supervisor is None:
            doctor.refuse_unfit(spec)
            removal.clear_remains(spec)
        if known is None or known.digest != spec.digest:
            spec.save()
        if supervisor is not None and (known is None or not _adopt(spec, supervisor, progress)):
            progress("the node does not recover by itself: restarting it with its data")
            removal.end_processes(spec, gracefully=False)
            supervisor = None
        if supervisor is None:
            _start(spec, progress)
            _wait(spec, progress)
        return _info(spec)


def stop(spec: NodeSpec) -> None:
    """End the node's processes, with a moment for pods to end by themselves; its files stay, `ensure` starts it again.

    Raises:
        NodeError: a process does not end.
    """
    with _locked(spec, lambda _: None):
        removal.end_processes(spec, gracefully=True)


def remove(spec: NodeSpec, *, delete_data: bool = False, progress: Progress) -> None:
    """Take the node off the machine: processes, mounts, namespaces, link, routes, rules, cgroups, and files.

    `volumes_dir` stays unless `delete_data`. Works on a half-made, broken or already removed node.

    Raises:
        NodeError: a process or mount stays (named); no tree with a mount in it was touched.
    """
    if not spec.state_dir.exists():
        removal.end_processes(spec, gracefully=False)
        removal.remove_mount_points()
        return
    with _locked(spec, progress):
        progress("ending the node's processes")
        removal.end_processes(spec, gracefully=not delete_data)
        progress("deleting the node's files")
        removal.delete_files(spec, delete_data=delete_data)
        removal.remove_mount_points()


# --- parts of ensure --------------------------------------------------------------------------------------------------


def _refuse_other_identity(known: NodeSpec | None, spec: NodeSpec) -> None:
    for field in _FIXED if known is not None else ():
        if getattr(known, field) != getattr(spec, field):
            raise NodeError(
                f"{field} of a node cannot change while its cluster lives.",
                got=getattr(spec, field),
                expected=f"{getattr(known, field)}, as {spec.node_json} says",
                hint="remove the node first, or give the new one another instance name and state folder",
            )


def _adopt(spec: NodeSpec, supervisor: processes.Supervisor, progress: Progress) -> bool:
    """Whether the running node is, or becomes, healthy with this spec; False: it must be started anew."""
    status = Status.read(spec.status_json)
    if status is None or status.phase != RUNNING:
        progress("the node is still starting")
        network.attach(spec, supervisor.pid)
        try:
            _wait(spec, progress)
        except NodeError as error:
            progress(str(error))
            return False
        return True
    if network.problem(spec) is not None:
        if not network.has_link(spec):
            return False
        network.attach(spec, supervisor.pid)
    if status.spec_digest != spec.digest or inside.has_stale_binds(spec, supervisor.pid):
        progress("taking in changed bind mounts and images")
        processes.reload(supervisor)
        _wait(spec, progress, num_reloads=status.num_reloads + 1)
    return _recovers(spec, progress)


def _recovers(spec: NodeSpec, progress: Progress) -> bool:
    deadline = time.monotonic() + _SELF_REPAIR_S
    told = ""
    while not (now := health(spec)).healthy:
        if time.monotonic() > deadline or now.problem_of("supervisor"):
            return False
        if now.summary != told:
            told = now.summary
            progress(f"waiting for the node to recover ({told})")
        time.sleep(0.5)
    return True


def _start(spec: NodeSpec, progress: Progress) -> None:
    progress("starting the node's supervisor")
    if not initialised(spec).exists():
        for remains in (spec.kubernetes_dir, spec.state_dir / "etcd", spec.state_dir / "kubelet"):
            mounts.delete_tree(remains)
    spec.status_json.unlink(missing_ok=True)
    for folder in (spec.log_dir, spec.volumes_dir):
        folder.mkdir(mode=0o755, exist_ok=True)
    processes.spawn(spec, spec.log_dir / "supervisor.log")
    unit.attach(spec)


def _wait(spec: NodeSpec, progress: Progress, *, num_reloads: int = 0) -> None:
    """Wait until the supervisor has taken the spec in and the node is Ready, telling each step."""
    deadline = time.monotonic() + _UP_S
    told = ""
    hint = f"logs are in {spec.log_dir}"
    while True:
        status = Status.read(spec.status_json) or Status()
        if status.error and status.num_reloads >= num_reloads:
            raise NodeError("The embedded node did not take its spec in.", got=status.error, hint=hint)
        if processes.find(spec.state_dir) is None:
            raise NodeError("The node's supervisor ended.", got=tail(spec.log_dir / "supervisor.log"), hint=hint)
        step = status.step
        if status.phase == RUNNING and status.num_reloads >= num_reloads:
            if (now := health(spec)).healthy:
                return
            step = f"waiting for the node ({now.summary})"
        if step != told:
            told = step
            progress(step)
        if time.monotonic() > deadline:
            raise NodeError(f"The node is not ready after {_UP_S:.0f} s.", got=step, hint=hint)
        time.sleep(0.2)


def _info(spec: NodeSpec) -> NodeInfo:
    state = query(spec)
    if not spec.cluster_uid_file.exists():
        write_atomic(spec.cluster_uid_file, state.cluster_uid, mode=0o600)
    recorded = spec.cluster_uid_file.read_text()
    if recorded != state.cluster_uid:
        raise NodeError(
            "Another cluster answers at the node's address.",
            got=f"kube-system {state.cluster_uid} at {spec.api_server}",
            expected=f"kube-system {recorded}, as recorded at the first start",
            hint="remove the node to begin anew; its data volumes stay",
        )
    return NodeInfo(spec.kubeconfig, spec.api_server, state.cluster_uid, spec.host_volume, spec.volumes_dir)


@contextmanager
def _locked(spec: NodeSpec, progress: Progress) -> Iterator[None]:
    """One command at a time on a node; the lock ends with the process that holds it."""
    if os.geteuid() != 0:
        raise NodeError(
            "The embedded node needs root.",
            got=f"uid {os.geteuid()}",
            hint="run as root; without it, an existing cluster (kubeconfig) and `sovereign train --local` still work",
        )
    spec.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold(spec.state_dir / removal.LOCK, lambda: progress("waiting for another command on this node")):
        yield
