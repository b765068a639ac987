"""When a Kubernetes object does its work, and what is wrong with it when it does not.

`readiness` judges one live object; kinds that are not in its table are ready as soon as they exist. `explain` gathers
what a person would look up next: reasons of waiting pods, conditions, the last warnings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stacks.fields import Object, ObjectRef

_NUM_EVENTS = 3


class Find(Protocol):
    """`Cluster.find`: objects of a kind in a namespace (all namespaces when empty)."""

    def __call__(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]: ...


@dataclass(frozen=True)
class Readiness:
    """`failed` means that waiting longer is useless; `message` says what is missing."""

    ready: bool
    message: str = ""
    failed: bool = False


READY = Readiness(True)


def readiness(live: Object, find: Find) -> Readiness:
    """Whether `live` does its work now. `find` looks up what it depends on (endpoints, storage classes)."""
    key = (ObjectRef.of(live).group, live["kind"])
    if looking := _LOOKING_JUDGES.get(key):
        return looking(live, find)
    judge = _JUDGES.get(key)
    return READY if judge is None else judge(live)


def condition(live: Object, kind: str) -> dict[str, Any]:
    """The condition of that type in the status, else an empty one."""
    for entry in (live.get("status") or {}).get("conditions") or []:
        if entry["type"] == kind:
            return dict(entry)
    return {}


def explain(live: Object, find: Find) -> list[str]:
    """Lines on why `live` is not ready: its pods' reasons and the last warnings about it and them."""
    ref = ObjectRef.of(live)
    lines = []
    pods = _pods(live, find)
    for pod in pods:
        lines += [f"pod {pod['metadata']['name']}: {reason}" for reason in pod_problems(pod)]
    lines += _warnings(live, pods, find)
    if ref.kind == "Namespace":
        lines += [c["message"] for c in (live.get("status") or {}).get("conditions") or [] if c["status"] == "True"]
    if any((pod.get("status") or {}).get("containerStatuses") for pod in pods):
        lines.append(
            f"see: kubectl -n {ref.namespace or 'default'} logs {pods[0]['metadata']['name']} --all-containers"
        )
    return lines


def pod_problems(pod: Object) -> list[str]:
    """Why this pod does not run: unschedulable, a container's waiting reason or exit code."""
    status = pod.get("status") or {}
    lines = []
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        lines.append(f"{scheduled.get('reason')}: {scheduled.get('message')}")
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        for name in ("state", "lastState"):
            state = container.get(name) or {}
            waiting, ended = state.get("waiting"), state.get("terminated")
            if waiting:
                lines.append(_joined(f"container {container['name']}", waiting.get("reason"), waiting.get("message")))
            if ended and ended.get("exitCode", 0) != 0:
                reason = f"{ended.get('reason', 'Error')} (exit code {ended['exitCode']})"
                lines.append(_joined(f"container {container['name']}", reason, ended.get("message")))
    if status.get("phase") == "Failed" and not lines:
        lines.append(_joined("failed", status.get("reason"), status.get("message")))
    return lines


def _joined(*parts: str | None) -> str:
    return ": ".join(part.strip() for part in parts if part)


def _pods(live: Object, find: Find) -> list[Object]:
    selector = (live.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels") if isinstance(selector, dict) else None
    if live["kind"] not in ("Deployment", "StatefulSet", "DaemonSet", "Job") or not labels:
        return []
    text = ",".join(f"{key}={value}" for key, value in labels.items())
    return find("v1", "Pod", ObjectRef.of(live).namespace or "default", labelSelector=text)


def _warnings(live: Object, pods: list[Object], find: Find) -> list[str]:
    # Events of what stands between an object and its pods (a ReplicaSet) are found by the object's name as prefix.
    name, namespace = live["metadata"]["name"], live["metadata"].get("namespace", "default")
    events = find("v1", "Event", namespace, fieldSelector="type=Warning")
    names = {pod["metadata"]["name"] for pod in pods}
    about = [
        e for e in events
        if (i := e["involvedObject"]).get("uid") == live["metadata"]["uid"]
        or i.get("name") in names
        or (i.get("kind") == "ReplicaSet" and str(i.get("name", "")).startswith(f"{name}-"))
    ]  # fmt: skip
    about.sort(key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
    lines = [f"{e['involvedObject']['kind']} {e.get('reason')}: {str(e.get('message', '')).strip()}" for e in about]
    return list(dict.fromkeys(reversed(lines)))[:_NUM_EVENTS]


def _observed(live: Object) -> bool:
    return int((live.get("status") or {}).get("observedGeneration", 0)) >= int(live["metadata"].get("generation", 0))


def _deployment(live: Object) -> Readiness:
    status, wanted = live.get("status") or {}, int(live["spec"].get("replicas", 1))
    if not _observed(live):
        return Readiness(False, "not yet seen by its controller")
    progressing, failure = condition(live, "Progressing"), condition(live, "ReplicaFailure")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return Readiness(False, str(progressing.get("message")), failed=True)
    if failure.get("status") == "True":
        message = str(failure.get("message"))
        return Readiness(False, message, failed="violates PodSecurity" in message)
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    old = int(status.get("replicas", 0)) - updated
    if updated >= wanted and available >= wanted and old <= 0:
        return READY
    return Readiness(False, f"{available} of {wanted} pods available" + (f", {old} old ones left" if old > 0 else ""))


def _stateful_set(live: Object) -> Readiness:
    status, wanted = live.get("status") or {}, int(live["spec"].get("replicas", 1))
    if not _observed(live):
        return Readiness(False, "not yet seen by its controller")
    updated = (
        status.get("updateRevision") == status.get("currentRevision") or status.get("updatedReplicas", 0) >= wanted
    )
    ready = int(status.get("availableReplicas", status.get("readyReplicas", 0)))
    if updated and ready >= wanted:
        return READY
    return Readiness(False, f"{ready} of {wanted} pods ready" + ("" if updated else ", being updated"))


def _daemon_set(live: Object) -> Readiness:
    status = live.get("status") or {}
    if not _observed(live):
        return Readiness(False, "not yet seen by its controller")
    wanted, available = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberAvailable", 0))
    if int(status.get("updatedNumberScheduled", 0)) >= wanted and available >= wanted:
        return READY
    return Readiness(False, f"{available} of {wanted} pods available")


def _job(live: Object) -> Readiness:
    if condition(live, "Complete").get("status") == "True":
        return READY
    failed = condition(live, "Failed")
    if failed.get("status") == "True":
        return Readiness(False, _joined(failed.get("reason"), failed.get("message")), failed=True)
    if live["spec"].get("suspend"):
        return Readiness(False, "suspended: it waits in its queue")
    status = live.get("status") or {}
    return Readiness(False, f"{status.get('active', 0)} pods running, {status.get('failed', 0)} failed")


def _pod(live: Object) -> Readiness:
    phase = (live.get("status") or {}).get("phase", "Pending")
    if phase == "Succeeded" or condition(live, "Ready").get("status") == "True":
        return READY
    return Readiness(False, _joined(phase, *pod_problems(live)), failed=phase == "Failed")


def _crd(live: Object) -> Readiness:
    names = condition(live, "NamesAccepted")
    if names.get("status") == "False":
        return Readiness(False, _joined(names.get("reason"), names.get("message")), failed=True)
    return _by_condition("Established")(live)


def _by_condition(kind: str) -> Callable[[Object], Readiness]:
    def judge(live: Object) -> Readiness:
        entry = condition(live, kind)
        if entry.get("status") == "True":
            return READY
        return Readiness(False, _joined(f"not {kind}", entry.get("reason"), entry.get("message")))

    return judge


def _webhooks(live: Object, find: Find) -> Readiness:
    for webhook in live.get("webhooks") or []:
        config = webhook["clientConfig"]
        service = config.get("service")
        if service is None:
            continue
        if not config.get("caBundle"):
            return Readiness(False, f"webhook {webhook['name']}: no caBundle yet")
        selector = f"kubernetes.io/service-name={service['name']}"
        slices = find("discovery.k8s.io/v1", "EndpointSlice", service["namespace"], labelSelector=selector)
        endpoints = [endpoint for one in slices for endpoint in one.get("endpoints") or []]
        if not any((e.get("conditions") or {}).get("ready", True) for e in endpoints):
            where = f"{service['namespace']}/{service['name']}"
            return Readiness(False, f"webhook {webhook['name']}: its service {where} has no ready endpoint")
    return READY


def _claim(live: Object, find: Find) -> Readiness:
    phase = (live.get("status") or {}).get("phase", "Pending")
    if phase == "Bound":
        return READY
    if phase == "Lost":
        volume = (live.get("spec") or {}).get("volumeName")
        if find("v1", "PersistentVolume", fieldSelector=f"metadata.name={volume}"):
            return Readiness(False, f"Lost: its volume {volume} was made again and is not bound yet")
        return Readiness(False, f"Lost: its volume {volume} is gone", failed=True)
    name = live["spec"].get("storageClassName")
    if name:
        for one in find("storage.k8s.io/v1", "StorageClass"):
            if one["metadata"]["name"] == name and one.get("volumeBindingMode") == "WaitForFirstConsumer":
                return READY  # it is bound when a pod asks for it
    volume = live["spec"].get("volumeName")
    wanted = f"volume {volume}, " if volume else ""
    return Readiness(False, f"{phase}: no volume bound ({wanted}storage class {name or 'none'})")


def _volume(live: Object) -> Readiness:
    phase = (live.get("status") or {}).get("phase", "Pending")
    if phase in ("Available", "Bound"):
        return READY
    return Readiness(False, _joined(phase, (live.get("status") or {}).get("message")), failed=phase == "Failed")


def _namespace(live: Object) -> Readiness:
    phase = (live.get("status") or {}).get("phase", "")
    return READY if phase == "Active" else Readiness(False, f"phase {phase or 'unknown'}")


_JUDGES: dict[tuple[str, str], Callable[[Object], Readiness]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "Namespace"): _namespace,
    ("", "PersistentVolume"): _volume,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    ("apiregistration.k8s.io", "APIService"): _by_condition("Available"),
    ("kueue.x-k8s.io", "ClusterQueue"): _by_condition("Active"),
    ("kueue.x-k8s.io", "LocalQueue"): _by_condition("Active"),
}
_LOOKING_JUDGES: dict[tuple[str, str], Callable[[Object, Find], Readiness]] = {
    ("", "PersistentVolumeClaim"): _claim,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _webhooks,
}
