"""The session's embedded node: an instance of its own with ranges that are free, removed at the end; clients of it.

conftest.py imports the fixtures. What a killed session left is removed by the next.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kubernetes import client, config

from sovereign.errors import NodeError
from sovereign.tools import find_tool
from stacks.fields import Object
from stacks.kube import Cluster
from stacks.node import cgroups, lifecycle, network, processes
from stacks.node.lifecycle import NodeInfo
from stacks.node.mounts import Mount, current_mounts
from stacks.node.spec import PROGRAMS, NodeSpec

BACK_S = 60.0
"""Within this, what was killed is back."""
_INSTANCE = re.compile(r"[a-z](\d+)")
_PYTEST_FOLDER = re.compile(r"/pytest-of-[^/]+/")


@dataclass(frozen=True)
class RunningNode:
    """A node that is up."""

    spec: NodeSpec
    info: NodeInfo

    @property
    def kubeconfig(self) -> Path:
        return self.info.kubeconfig

    @property
    def uid(self) -> str:
        """UID of kube-system."""
        return self.info.cluster_uid

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of kubectl; its failure fails the test with what it said."""
        cache = self.spec.state_dir / "kubectl-cache"
        command = [str(self.spec.binaries["kubectl"]), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}"]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def mounts_but_of_other_tests(folder: Path) -> list[Mount]:
    """The machine's mounts, without those that tests beside this one have in folders of theirs, not below `folder`."""
    return [
        mount
        for mount in current_mounts()
        if folder in mount.path.parents or not _PYTEST_FOLDER.search(f"{mount.path}/")
    ]


def free_spec(prefix: str, folder: Path) -> NodeSpec:
    """A spec whose ranges nothing on this machine uses, named by `prefix`, each caller's own, and this process."""
    binaries = {name: find_tool(name) for name in PROGRAMS}
    instance = f"{prefix}{os.getpid()}"
    for second in range(200, 240):
        base = f"10.{second}"
        spec = NodeSpec(instance, folder, f"{base}.0.0/24", f"{base}.128.0/20", f"{base}.255.252/30", binaries)
        try:
            network.check_free(spec)
        except NodeError:
            continue
        return spec
    raise AssertionError("no free range in 10.200.0.0 to 10.239.255.255")


def python_folders() -> tuple[Path, ...]:
    """What a pod needs to see to run this Python."""
    usr, prefix = Path("/usr"), Path(sys.base_prefix)
    return (usr,) if prefix.is_relative_to(usr) else (usr, prefix)


def remove_remains_of_dead_sessions() -> None:
    for supervisor in processes.supervisors():
        spec = NodeSpec.load(supervisor.state_dir)
        match = _INSTANCE.fullmatch(spec.instance) if spec else None
        if spec and match and not Path("/proc", match[1]).exists():
            lifecycle.remove(spec, delete_data=True, progress=print)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A healthy node that sees the host's /usr and the tests' Python."""
    assert os.geteuid() == 0, "the e2e tests need root"
    remove_remains_of_dead_sessions()
    spec = free_spec("t", tmp_path_factory.mktemp("node"))
    spec = replace(spec, binds=python_folders())
    try:
        yield RunningNode(spec, lifecycle.ensure(spec, print))
    finally:
        lifecycle.remove(spec, delete_data=True, progress=print)


@pytest.fixture(scope="session")
def kube(cluster: RunningNode) -> Iterator[Cluster]:
    """Our client of the node's API server."""
    connected = Cluster(cluster.kubeconfig, expected_uid=cluster.uid)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def namespace(kube: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for the tests of one module."""
    name = f"{request.module.__name__.rpartition('.')[2].removeprefix('test_')}-{uuid.uuid4().hex[:8]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    kube.apply(manifest)
    kube.wait_ready(manifest, 30)
    yield name
    kube.delete(manifest, 90)


@pytest.fixture(scope="module")
def others(cluster: RunningNode) -> client.CoreV1Api:
    """The official client: what somebody else does to the cluster."""
    return client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))  # type: ignore[no-untyped-call]


def config_map(namespace: str, name: str, **data: str) -> Object:
    """A ConfigMap with `data`."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def supervisor_pid(spec: NodeSpec) -> int:
    found = processes.find(spec.state_dir)
    assert found is not None, "no supervisor"
    return found.pid


def pids_where(spec: NodeSpec, entry: str, is_wanted: Callable[[bytes], bool]) -> set[int]:
    """PIDs, as this machine sees them, of the node's processes whose file `entry` in /proc is wanted."""
    found = set()
    for pid in cgroups.processes(spec.cgroup):
        try:
            if is_wanted(Path(f"/proc/{pid}/{entry}").read_bytes()):
                found.add(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def pids_of(spec: NodeSpec, program: str) -> set[int]:
    """PIDs, as this machine sees them, of the node's processes of this name."""
    return pids_where(spec, "comm", lambda name: name.strip() == program.encode())


def wait_until_back(spec: NodeSpec, program: str, killed: set[int]) -> None:
    """Wait until the program runs anew and the node is healthy."""
    deadline = time.monotonic() + BACK_S
    while not (pids_of(spec, program) - killed and lifecycle.health(spec).healthy):
        assert time.monotonic() < deadline, lifecycle.health(spec).summary
        time.sleep(0.5)
