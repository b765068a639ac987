"""Readiness of sample objects as an API server returns them."""

from __future__ import annotations

from typing import Any

import pytest

from stacks.fields import Object
from stacks.readiness import Readiness, explain, pod_problems, readiness


def found(**by_kind: list[Object]) -> Any:
    """A lookup that knows these objects."""
    return lambda api_version, kind, namespace="", **selectors: by_kind.get(kind, [])


def judge(
    api_version: str, kind: str, status: Object, spec: Object | None = None, **by_kind: list[Object]
) -> Readiness:
    live: Object = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "x", "namespace": "n", "generation": 2, "uid": "u"},
        "spec": spec or {},
        "status": status,
    }
    return readiness(live, found(**by_kind))


def conditions(**statuses: str) -> Object:
    return {"conditions": [{"type": kind, "status": status, "reason": "Why"} for kind, status in statuses.items()]}


ON_ONE_NODE = {"desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}
UPDATING = {"observedGeneration": 2, "currentRevision": "a", "updateRevision": "b"}
ROLLED_OUT = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
READY_OBJECTS: list[tuple[str, str, Object, Object]] = [
    ("apps/v1", "Deployment", {"replicas": 2}, ROLLED_OUT),
    ("apps/v1", "Deployment", {"replicas": 0}, {"observedGeneration": 2}),
    ("apps/v1", "StatefulSet", {"replicas": 2}, {**ROLLED_OUT, "currentRevision": "a", "updateRevision": "a"}),
    ("apps/v1", "DaemonSet", {}, {"observedGeneration": 2, **ON_ONE_NODE}),
    ("batch/v1", "Job", {}, conditions(Complete="True")),
    ("v1", "Pod", {}, {"phase": "Succeeded"}),
    ("v1", "Namespace", {}, {"phase": "Active"}),
    ("v1", "PersistentVolume", {}, {"phase": "Available"}),
    ("v1", "PersistentVolumeClaim", {}, {"phase": "Bound"}),
    ("v1", "Service", {}, {}),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", {}, conditions(Established="True", NamesAccepted="True")),
    ("apiregistration.k8s.io/v1", "APIService", {}, conditions(Available="True")),
    ("kueue.x-k8s.io/v1beta1", "ClusterQueue", {}, conditions(Active="True")),
]  # fmt: skip
WAITING_OBJECTS: list[tuple[str, str, Object, Object, str]] = [
    ("apps/v1", "Deployment", {}, {"observedGeneration": 1}, "not yet seen"),
    ("apps/v1", "Deployment", {"replicas": 2}, {**ROLLED_OUT, "availableReplicas": 1}, "1 of 2 pods available"),
    ("apps/v1", "Deployment", {"replicas": 2}, {**ROLLED_OUT, "replicas": 3}, "1 old ones left"),
    ("apps/v1", "StatefulSet", {}, UPDATING, "being updated"),
    ("apps/v1", "DaemonSet", {}, {"observedGeneration": 2, "desiredNumberScheduled": 1}, "0 of 1 pods"),
    ("batch/v1", "Job", {}, {"active": 1}, "1 pods running"),
    ("batch/v1", "Job", {"suspend": True}, {}, "waits in its queue"),
    ("v1", "PersistentVolumeClaim", {"storageClassName": "fast"}, {"phase": "Pending"}, "storage class fast"),
    ("v1", "PersistentVolume", {}, {"phase": "Released"}, "Released"),
    ("v1", "Namespace", {}, {"phase": "Terminating"}, "Terminating"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", {}, {}, "not Established"),
    ("apiregistration.k8s.io/v1", "APIService", {}, conditions(Available="False"), "not Available: Why"),
    ("kueue.x-k8s.io/v1beta1", "ClusterQueue", {}, conditions(Active="False"), "not Active: Why"),
]  # fmt: skip
FAILED_OBJECTS: list[tuple[str, str, Object, str]] = [
    ("batch/v1", "Job", conditions(Failed="True"), "Why"),
    ("v1", "Pod", {"phase": "Failed"}, "Failed"),
    ("v1", "PersistentVolumeClaim", {"phase": "Lost"}, "Lost"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", conditions(NamesAccepted="False"), "Why"),
    ("apps/v1", "Deployment", {"observedGeneration": 2, "conditions": [{"type": "ReplicaFailure", "status": "True",
     "message": 'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'}]},
     "allowPrivilegeEscalation"),
    ("apps/v1", "Deployment", {"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "False",
     "reason": "ProgressDeadlineExceeded", "message": "has timed out progressing"}]}, "timed out"),
]  # fmt: skip


@pytest.mark.parametrize(("api_version", "kind", "spec", "status"), READY_OBJECTS)
def test_ready(api_version: str, kind: str, spec: Object, status: Object) -> None:
    assert judge(api_version, kind, status, spec) == Readiness(True)


@pytest.mark.parametrize(("api_version", "kind", "spec", "status", "told"), WAITING_OBJECTS)
def test_not_ready_yet(api_version: str, kind: str, spec: Object, status: Object, told: str) -> None:
    state = judge(api_version, kind, status, spec)
    assert not state.ready and not state.failed and told in state.message


@pytest.mark.parametrize(("api_version", "kind", "status", "told"), FAILED_OBJECTS)
def test_failed_for_good(api_version: str, kind: str, status: Object, told: str) -> None:
    state = judge(api_version, kind, status)
    assert state.failed and told in state.message


def test_claim_that_is_bound_on_first_use_is_ready() -> None:
    storage_class = {"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    spec = {"storageClassName": "late"}
    assert judge("v1", "PersistentVolumeClaim", {"phase": "Pending"}, spec, StorageClass=[storage_class]).ready
    assert not judge("v1", "PersistentVolumeClaim", {"phase": "Pending"}, spec).ready


def test_webhook_needs_a_ready_endpoint_and_a_certificate() -> None:
    def state(bundle: str, ready: bool | None) -> Readiness:
        service = {"name": "hook", "namespace": "n"}
        live: Object = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "x"},
            "webhooks": [
                {"name": "by-url", "clientConfig": {"url": "https://x"}},
                {"name": "by-service", "clientConfig": {"service": service, "caBundle": bundle}},
            ],
        }
        endpoints = [] if ready is None else [{"conditions": {"ready": ready}}]
        return readiness(live, found(EndpointSlice=[{"endpoints": endpoints}]))

    assert state("Cg==", True).ready
    assert "no ready endpoint" in state("Cg==", False).message
    assert "no ready endpoint" in state("Cg==", None).message
    assert "no caBundle" in state("", True).message


def test_pods_tell_why_they_do_not_run() -> None:
    waiting = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    crashed = {"name": "side", "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "state": {}}
    pod = {"status": {"phase": "Pending", "initContainerStatuses": [waiting], "containerStatuses": [crashed]}}
    assert pod_problems(pod) == [
        "container main: ImagePullBackOff: no such image",
        "container side: OOMKilled (exit code 137)",
    ]
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert pod_problems({"status": {"conditions": [unschedulable]}}) == ["Unschedulable: 0/1 nodes"]


def test_explanation_has_the_last_warnings_about_the_object_and_its_pods() -> None:
    def event(kind: str, name: str, message: str, when: str) -> Object:
        return {
            "involvedObject": {"kind": kind, "name": name},
            "reason": "R",
            "message": message,
            "lastTimestamp": when,
        }

    live: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "n", "uid": "u"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
    }
    pods: list[Object] = [{"metadata": {"name": "web-1-a"}, "status": {}}]
    events = [
        event("Pod", "web-1-a", "older", "2026-01-01T00:00:00Z"),
        event("Pod", "web-1-a", "newer", "2026-01-02T00:00:00Z"),
        event("ReplicaSet", "web-1", "no quota", "2026-01-03T00:00:00Z"),
        event("Pod", "of-others", "not ours", "2026-01-04T00:00:00Z"),
    ]
    assert explain(live, found(Pod=pods, Event=events)) == ["ReplicaSet R: no quota", "Pod R: newer", "Pod R: older"]
