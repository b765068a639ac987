"""Whether an embedded node works, seen from the machine that it runs on: a few milliseconds and one kubectl call."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime

from sovereign.errors import NodeError
from stacks.node import network, processes
from stacks.node.spec import NODE_NAME, NodeSpec
from stacks.node.status import FAILED, Status

_SERVICES = ("containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class HealthCheck:
    """One named check; `problem` is empty where it is well."""

    name: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class NodeHealth:
    checks: tuple[HealthCheck, ...]

    @property
    def healthy(self) -> bool:
        return all(check.ok for check in self.checks)

    def problem_of(self, name: str) -> str:
        return next(check.problem for check in self.checks if check.name == name)

    @property
    def summary(self) -> str:
        """What is wrong, in one line."""
        return "; ".join(f"{check.name}: {check.problem}" for check in self.checks if not check.ok) or "healthy"


@dataclass(frozen=True)
class ClusterState:
    """What the API server says."""

    node_problem: str
    cluster_uid: str
    """UID of the namespace kube-system."""


def check(spec: NodeSpec) -> NodeHealth:
    """Checks supervisor, containerd, kubelet, kube-proxy, api, node ready and network; a sick node is no error."""
    if processes.find(spec.state_dir) is None:
        unknown = "not running, as the supervisor is not"
        rest = ("containerd", "kubelet", "kube-proxy", "api", "node ready", "network")
        return NodeHealth((HealthCheck("supervisor", "not running"), *(HealthCheck(name, unknown) for name in rest)))
    status = Status.read(spec.status_json) or Status(step="has not reported yet")
    checks = [HealthCheck("supervisor", status.error if status.phase == FAILED else "")]
    for name in _SERVICES:
        service = status.services.get(name)
        problem = "not started yet" if service is None else "" if service.up else service.problem or "not up"
        checks.append(HealthCheck(name, problem))
    try:
        state = query(spec, not_before=status.started_at)
        checks += [HealthCheck("api"), HealthCheck("node ready", state.node_problem)]
    except NodeError as error:
        checks += [
            HealthCheck("api", str(error.got or error)),
            HealthCheck("node ready", "unknown without the API server"),
        ]
    dns_problem = "" if network.answers_dns(spec) else f"the cluster's DNS does not answer at {spec.dns_address}"
    checks.append(HealthCheck("network", network.problem(spec) or dns_problem))
    return NodeHealth(tuple(checks))


def query(spec: NodeSpec, *, not_before: float = 0.0) -> ClusterState:
    """Ask the API server for the node and the cluster's UID.

    Args:
        spec: the node.
        not_before: Unix time in seconds; what the kubelet said earlier does not count, it was another life of the node.

    Raises:
        NodeError: it does not answer, or there is no kubeconfig yet.
    """
    if not spec.kubeconfig.exists():
        raise NodeError("The node has no kubeconfig yet.", got="not initialised yet")
    command = [
        *(str(spec.binaries["kubectl"]), "--kubeconfig", str(spec.kubeconfig), "--request-timeout=5s"),
        *("--cache-dir", str(spec.state_dir / "kubectl-cache"), "get", "-o", "json"),
        *(f"nodes/{NODE_NAME}", "namespaces/kube-system"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeError("kubectl could not ask the API server.", got=str(error)) from error
    if done.returncode != 0:
        raise NodeError(
            "The API server does not answer.",
            got=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason",
        )
    node, namespace = json.loads(done.stdout)["items"]
    ready = next((c for c in node["status"].get("conditions", []) if c["type"] == "Ready"), None)
    return ClusterState(_readiness_problem(ready, not_before), namespace["metadata"]["uid"])


def _readiness_problem(ready: dict[str, str] | None, not_before: float) -> str:
    if ready is None or datetime.fromisoformat(ready["lastHeartbeatTime"]).timestamp() < int(not_before):
        return "the kubelet has not reported yet"
    return "" if ready["status"] == "True" else ready.get("message", "not ready")
