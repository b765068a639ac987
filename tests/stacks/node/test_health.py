"""What counts of the API server's word on a node that was killed and started again, with a kubectl that reads files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import NodeError
from stacks.node.health import query, readiness_of_dns
from stacks.node.spec import PROGRAMS, NodeSpec
from tests.stacks.node.test_spec import a_spec

BEGAN = 1_795_000_000.7
"""When this life of the node began: 2026-11-18T11:06:40Z."""
BEFORE, SINCE = "2026-11-18T11:06:39Z", "2026-11-18T11:06:40Z"
KUBECTL = """#!/bin/sh
case "$*" in
*" pods --namespace kube-system --selector k8s-app=kube-dns") cat {folder}/pods.json ;;
*" nodes/"*" namespaces/kube-system") cat {folder}/node.json ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


def pod(ready: str, *started_at: str) -> dict[str, Any]:
    """A pod of CoreDNS as the API server tells it, with containers that run since `started_at`."""
    containers = [
        {"name": "coredns", "ready": True, "restartCount": 1, "state": {"running": {"startedAt": one}}}
        for one in started_at
    ]
    waiting = {"name": "coredns", "ready": False, "restartCount": 1, "state": {"waiting": {"reason": "Unknown"}}}
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}]
    return {"status": {"phase": "Running", "conditions": conditions, "containerStatuses": containers or [waiting]}}


@pytest.fixture
def spec(tmp_path: Path) -> NodeSpec:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(folder=tmp_path))
    kubectl.chmod(0o755)
    found = a_spec(state_dir=tmp_path, binaries={name: tmp_path / name for name in PROGRAMS})
    found.kubeconfig.write_text("")
    return found


def tell(spec: NodeSpec, name: str, *items: dict[str, Any]) -> None:
    (spec.state_dir / f"{name}.json").write_text(json.dumps({"kind": "List", "items": items}))


@pytest.mark.parametrize(
    ("pods", "problem"),
    [
        ([pod("True", SINCE), pod("True", SINCE)], ""),
        ([pod("True", SINCE), pod("False")], ""),
        ([pod("True", BEFORE), pod("True", BEFORE)], "the kubelet has not reported CoreDNS yet"),
        ([pod("True", SINCE), pod("True", BEFORE)], "the kubelet has not reported CoreDNS yet"),
        ([pod("True")], "the kubelet has not reported CoreDNS yet"),
        ([pod("False", SINCE), pod("False", BEFORE)], "CoreDNS is not ready"),
        ([{"status": {"phase": "Pending"}}], "CoreDNS is not ready"),
        ([], ""),
    ],
)
def test_readiness_of_dns_counts_of_this_life_only(spec: NodeSpec, pods: list[dict[str, Any]], problem: str) -> None:
    tell(spec, "pods", *pods)
    assert readiness_of_dns(spec, not_before=BEGAN) == problem


def test_a_heartbeat_of_before_does_not_make_the_node_ready(spec: NodeSpec) -> None:
    for beat, problem in ((BEFORE, "the kubelet has not reported yet"), (SINCE, "")):
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": beat}
        tell(spec, "node", {"status": {"conditions": [ready]}}, {"metadata": {"uid": "1-2-3"}})
        assert query(spec, not_before=BEGAN).node_problem == problem
    assert query(spec).cluster_uid == "1-2-3"


def test_an_api_server_that_does_not_answer_is_told(spec: NodeSpec) -> None:
    with pytest.raises(NodeError, match="does not answer") as caught:
        readiness_of_dns(spec, not_before=BEGAN)
    assert "pods.json" in str(caught.value.got)
    spec.kubeconfig.unlink()
    with pytest.raises(NodeError, match="no kubeconfig yet"):
        query(spec)
