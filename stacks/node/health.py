"""Whether an embedded node works, seen from the machine that it runs on: a few milliseconds and two kubectl calls."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
    dns_problem = ""
    try:
        state = query(spec, not_before=status.started_at)
        dns_problem = readiness_of_dns(spec, not_before=status.started_at)
        checks += [HealthCheck("api"), HealthCheck("node ready", state.node_problem)]
    except NodeError as error:
        checks += [
            HealthCheck("api", str(error.got or error)),
            HealthCheck("node ready", "unknown without the API server"),
        ]
    if not dns_problem and not network.answers_dns(spec):
        dns_problem = f"the cluster's DNS does not answer at {spec.dns_address}"
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
    node, namespace = _get(spec, f"nodes/{NODE_NAME}", "namespaces/kube-system")
    ready = _condition(node, "Ready")
    return ClusterState(_readiness_problem(ready, not_before), namespace["metadata"]["uid"])


def readiness_of_dns(spec: NodeSpec, *, not_before: float) -> str:
    """Why the cluster's DNS is not to be relied on yet, or nothing.

    What the API server says of pods outlives a node that was killed. Until the kubelet has reported the new containers
    of CoreDNS, its Service keeps the old addresses; one that answers by chance goes when the report comes.

    Args:
        spec: the node.
        not_before: Unix time in seconds at which this life of the node began.

    Raises:
        NodeError: see `query`.
    """
    pods = _get(spec, "pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")
    ready = [pod for pod in pods if (_condition(pod, "Ready") or {}).get("status") == "True"]
    if any(_started_at(pod) < int(not_before) for pod in ready):
        return "the kubelet has not reported CoreDNS yet"
    return "CoreDNS is not ready" if pods and not ready else ""


def _started_at(pod: dict[str, Any]) -> float:
    """When the first of a pod's running containers started, Unix time in seconds; 0 where none runs."""
    states = [status.get("state", {}).get("running") for status in pod["status"].get("containerStatuses", [])]
    return min((datetime.fromisoformat(state["startedAt"]).timestamp() for state in states if state), default=0.0)


def _condition(thing: dict[str, Any], name: str) -> dict[str, str] | None:
    return next((one for one in thing["status"].get("conditions", []) if one["type"] == name), None)


def _get(spec: NodeSpec, *what: str) -> list[dict[str, Any]]:
    """What `kubectl get` finds.

    Raises:
        NodeError: the API server does not answer, or there is no kubeconfig yet.
    """
    if not spec.kubeconfig.exists():
        raise NodeError("The node has no kubeconfig yet.", got="not initialised yet")
    command = [
        *(str(spec.binaries["kubectl"]), "--kubeconfig", str(spec.kubeconfig), "--request-timeout=5s"),
        *("--cache-dir", str(spec.state_dir / "kubectl-cache"), "get", "-o", "json", *what),
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
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def _readiness_problem(ready: dict[str, str] | None, not_before: float) -> str:
    if ready is None or datetime.fromisoformat(ready["lastHeartbeatTime"]).timestamp() < int(not_before):
        return "the kubelet has not reported yet"
    return "" if ready["status"] == "True" else ready.get("message", "not ready")
