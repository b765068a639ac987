"""Which Job of a stage is followed, and which is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import StageError
from sovereign.jobs import KEY_ANNOTATION, JobRunner, job_object
from sovereign.profile import Profile, load_profile
from sovereign.resources import data_path
from sovereign.store import open_store

Object = dict[str, Any]


class Jobs:
    """A cluster that holds one Job."""

    def __init__(self) -> None:
        self.job: Object | None = None
        self.deleted = 0

    def apply(self, obj: Object, /) -> Object:
        self.job = obj
        return obj

    def get(self, obj: Object, /) -> Object | None:
        return self.job

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        return []

    def patch(self, obj: Object, operations: list[dict[str, Any]], /) -> None:
        raise AssertionError("no object of others is changed here")

    def delete(self, obj: Object, /) -> None:
        self.job, self.deleted = None, self.deleted + 1

    def follow_log(self, namespace: str, pod: str) -> Iterator[str]:
        return iter(())


def submit(jobs: Jobs, root: Path, **training: Any) -> None:
    """Queue stage `corpus` of profile ci with these keys of `training`."""
    profile = load_profile(data_path("templates") / "profiles" / "ci.yaml").model_dump()
    profile["training"] |= training

    def render(stage: str, key: str) -> list[Object]:
        job = job_object("ci", stage)
        return [job | {"metadata": job["metadata"] | {"annotations": {KEY_ANNOTATION: key}}}]

    JobRunner(jobs, Profile.model_validate(profile), open_store(f"file://{root}"), render).submit("corpus")


class FailedJob(Jobs):
    """A Job of two ranks, the second of which failed."""

    def get(self, obj: Object, /) -> Object | None:
        failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 1"}
        return {"spec": {}, "status": {"conditions": [failed]}}

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        phases = {0: "Running", 1: "Failed"}
        wanted = selectors["labelSelector"].partition("completion-index=")[2]
        return [
            {"metadata": {"name": f"rank-{rank}", "creationTimestamp": ""}, "status": {"phase": phase}}
            for rank, phase in phases.items()
            if wanted in ("", str(rank))
        ]

    def follow_log(self, namespace: str, pod: str) -> Iterator[str]:
        return iter([f"this is {pod}\n"])


def test_what_the_failed_rank_wrote_is_told(tmp_path: Path) -> None:
    profile = load_profile(data_path("templates") / "profiles" / "ci.yaml")
    runner = JobRunner(FailedJob(), profile, open_store(f"file://{tmp_path}"), lambda *_: [])
    with pytest.raises(StageError, match=r"PodFailurePolicy exit code 1\n  this is rank-0\n  this is rank-1\n"):
        runner.follow("curate", lambda _event: None)


def test_a_job_is_followed_until_its_pods_change(tmp_path: Path) -> None:
    jobs = Jobs()
    submit(jobs, tmp_path)
    submit(jobs, tmp_path, checkpoint_every_steps=7)
    assert jobs.deleted == 0, "it would make the same on the same pods"
    submit(jobs, tmp_path, pods=2, threads_per_pod=1)
    assert jobs.deleted == 1 and jobs.job is not None
    submit(jobs, tmp_path, pods=2, threads_per_pod=1)
    assert jobs.deleted == 1
