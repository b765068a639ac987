"""Stages as Jobs of the cluster's queue, followed to their end across restarts of the pod, the node or this command.

The cluster is handed in (`ClusterApi`), so that this package needs no client of its own. A Job carries the digest of
what it makes and on which pods: one with the same is followed, any other is replaced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tenacity

from sovereign.errors import StageError, TemporaryClusterError
from sovereign.plan import Plan, plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt, config_digest, stage_key
from sovereign.runner import KEPT_LINES, Report, StageEvent, current_receipt, finished_receipt, parse_event
from sovereign.stages import collect_inputs, load_stage
from sovereign.store import Store

NAMESPACE = "training"
KEY_ANNOTATION = "sovereign.local/stage-key"
QUEUE_API = "kueue.x-k8s.io/v1beta1"
"""The version that is stored: any other needs Kueue's conversion webhook, which starts after the API server."""
POLL_S = 0.5
OUTAGE_LIMIT_S = 180.0
"""How long the API server may be away while a Job is followed, queued or stopped."""

Object = dict[str, Any]


class ClusterApi(Protocol):
    """The part of a cluster that Jobs need; `stacks.kube.Cluster` is one."""

    def apply(self, obj: Object, /) -> Object:
        """Server-side apply."""
        ...

    def get(self, obj: Object, /) -> Object | None:
        """The live object."""
        ...

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        """Objects of a kind."""
        ...

    def patch(self, obj: Object, operations: list[dict[str, Any]], /) -> None:
        """Change the live object by a JSON patch."""
        ...

    def delete(self, obj: Object, /) -> None:
        """Delete and wait until it is gone."""
        ...

    def follow_log(self, namespace: str, pod: str) -> Iterator[str]:
        """Lines of a pod's log until it ends; none when the pod is gone."""
        ...


_patiently = tenacity.retry(
    retry=tenacity.retry_if_exception_type(TemporaryClusterError),
    wait=tenacity.wait_fixed(POLL_S),
    stop=tenacity.stop_after_delay(OUTAGE_LIMIT_S),
    reraise=True,
)


def job_name(profile: str, stage: str) -> str:
    """Name of the Job of a stage."""
    return f"{profile}-{stage}"


def job_object(profile: str, stage: str) -> Object:
    """What names the Job of a stage."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(profile, stage), "namespace": NAMESPACE},
    }


class JobRunner:
    """Runs stages as Jobs of the cluster.

    Args:
        cluster: the cluster.
        profile: the site's profile.
        store: the lake, as seen from here.
        render: objects (ConfigMap, Service, Job) of a stage with a key, from the templates.
    """

    def __init__(
        self, cluster: ClusterApi, profile: Profile, store: Store, render: Callable[[str, str], list[Object]]
    ) -> None:
        self.cluster = cluster
        self.profile = profile
        self.plan: Plan = plan(profile)
        self.store = store
        self.render = render

    def current(self, name: str) -> Receipt | None:
        return current_receipt(name, self.profile, self.plan, self.store)

    def run(self, name: str, report: Report) -> Receipt:
        self.submit(name)
        self.follow(name, report)
        return finished_receipt(name, self.profile, self.store)

    @_patiently
    def submit(self, name: str) -> None:
        """Queue the Job of stage `name`; one that makes the same on the same pods and has not failed stays as it is."""
        stage = load_stage(name)
        inputs = collect_inputs(self.store, stage, self.profile)
        key = stage_key(name, stage.version, stage.config(self.profile, self.plan), inputs)
        key = config_digest({"stage": key, "quota": self.plan.quota.model_dump()})
        wanted = job_object(self.profile.name, name)
        live = self.cluster.get(wanted)
        if live is not None:
            same = live["metadata"].get("annotations", {}).get(KEY_ANNOTATION) == key
            if same and finished(live) is None:
                return
            self.cluster.delete(wanted)
        for obj in self.render(name, key):
            self.cluster.apply(obj)

    @_patiently
    def deactivate(self, name: str) -> None:
        """Let Kueue suspend the Job of stage `name`; its pods end with SIGTERM and their grace period.

        Raises:
            StageError: there is no such Job in the queue.
        """
        self._set_active(self._workload(name), active=False)

    @_patiently
    def activate(self, name: str) -> None:
        """Undo `deactivate`; nothing when there is no such Job."""
        if self.cluster.get(job_object(self.profile.name, name)) is not None:
            workload = self._workload(name)
            if workload["spec"].get("active") is False:
                self._set_active(workload, active=True)

    def _workload(self, name: str) -> Object:
        job = self.cluster.get(job_object(self.profile.name, name))
        uid = job["metadata"]["uid"] if job is not None else "none"
        found = self.cluster.find(QUEUE_API, "Workload", NAMESPACE, labelSelector=f"kueue.x-k8s.io/job-uid={uid}")
        if not found:
            raise StageError(f"stage {name} is not in the queue", hint=f"sovereign stage {name} PROFILE")
        return found[0]

    def _set_active(self, workload: Object, *, active: bool) -> None:
        """The workload is Kueue's; an apply would take out all that it has beyond this."""
        metadata = {key: workload["metadata"][key] for key in ("name", "namespace")}
        named = {"apiVersion": QUEUE_API, "kind": "Workload", "metadata": metadata}
        self.cluster.patch(named, [{"op": "add", "path": "/spec/active", "value": active}])

    def follow(self, name: str, report: Report) -> None:
        """Report the Job's progress until it is complete.

        Raises:
            StageError: it failed, or was removed; with the last lines that it wrote.
        """
        follower = _Follower(self.cluster, self.profile.name, name, report)
        reached = time.monotonic()
        while True:
            try:
                if follower.step():
                    return
                reached = time.monotonic()
            except TemporaryClusterError:
                if time.monotonic() - reached > OUTAGE_LIMIT_S:
                    raise
                report(StageEvent(name, "the API server does not answer; waiting for it"))
            time.sleep(POLL_S)


class _Follower:
    """One Job being followed: which pod's log was read how far, and what was said last."""

    def __init__(self, cluster: ClusterApi, profile: str, stage: str, report: Report) -> None:
        self.cluster = cluster
        self.stage = stage
        self.report = report
        self.job = job_object(profile, stage)
        self.told = ""
        self.read: dict[str, int] = {}
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)

    def step(self) -> bool:
        """Read what there is; True when the Job is complete."""
        live = self.cluster.get(self.job)
        if live is None:
            raise StageError(
                f"Job {self.job['metadata']['name']} was removed while it ran", hint="run the command again"
            )
        for pod in self._pods():
            self._read_log(pod)
        end = finished(live)
        if end == "Failed":
            for pod in self._failed_pods():
                self._read_log(pod)
            reason = next(c for c in live["status"]["conditions"] if c["type"] == "Failed")
            lines = "\n  ".join(self.kept) or "(it wrote nothing)"
            message = f"stage {self.stage} failed: {reason.get('reason', '')} {reason.get('message', '')}"
            raise StageError(f"{message}\n  {lines}", hint=f"sovereign logs PROFILE {self.stage}")
        if end is None and live["spec"].get("suspend"):
            self._tell("waiting in the queue")
        return end == "Complete"

    def _failed_pods(self) -> list[Object]:
        """Those of any rank: the one that failed says why."""
        return [pod for pod in self._pods("") if pod["status"].get("phase") == "Failed"]

    def _pods(self, of: str = ",batch.kubernetes.io/job-completion-index=0") -> list[Object]:
        selector = f"batch.kubernetes.io/job-name={self.job['metadata']['name']}{of}"
        pods = self.cluster.find("v1", "Pod", NAMESPACE, labelSelector=selector)
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _read_log(self, pod: Object) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        if phase == "Pending":
            waiting = [
                status["state"]["waiting"].get("reason", "")
                for status in pod["status"].get("containerStatuses", [])
                if "waiting" in status.get("state", {})
            ]
            self._tell(f"starting {' '.join(waiting)}".strip())
            return
        already = self.read.get(name, 0)
        if already < 0:
            return
        for count, line in enumerate(self.cluster.follow_log(NAMESPACE, name), start=1):
            if count <= already:
                continue
            self.read[name] = count
            event = parse_event(line)
            if event is not None:
                self.report(event)
            elif line.strip():
                self.kept.append(line.rstrip())
        if phase in ("Succeeded", "Failed"):
            self.read[name] = -1

    def _tell(self, message: str) -> None:
        if message != self.told:
            self.told = message
            self.report(StageEvent(self.stage, message))


def finished(job: Object) -> str | None:
    """ "Complete" or "Failed" when the Job has ended, else None."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None
