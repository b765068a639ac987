"""Which folders of this machine a stage's pod sees: those that the profile names for it, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.plan import plan
from sovereign.profile import Profile, parse_profile
from sovereign.workload import PodRuntime, job_context, source_folders, stage_folders

RUNTIME = PodRuntime(mode="host", image="host", pull_policy="Never", python="/python")


def profile(paths: list[str], task_folder: str | None) -> Profile:
    common = {"owner": "O", "licence": "CC0-1.0", "language": "en"}
    sources = [{"name": f"s{number}", "path": path, **common} for number, path in enumerate(paths)]
    document: dict[str, Any] = {"apiVersion": "sovereign/v1", "name": "tiny", "corpus": {"sources": sources}}
    document |= {"model": {"parameters": 1e5}, "training": {"tokens": 1e5}, "evaluation": {"task_folder": task_folder}}
    return parse_profile(json.dumps(document))


@pytest.mark.parametrize(
    ("stage", "expected"), [("corpus", ("/data/a",)), ("evaluate", ("/tasks",)), ("train", ()), ("tokenize", ())]
)
def test_a_stage_sees_its_own_folders(stage: str, expected: tuple[str, ...]) -> None:
    found = profile(["/data/a", "/data/a/b", "python-stdlib", "s3://raw/data"], "/tasks")
    assert stage_folders(found, stage) == tuple(map(Path, expected))
    context = job_context(found, plan(found), RUNTIME, name="job", stage=stage, key="k", profile_text="")
    assert context["job"]["sources"] == list(expected)


def test_curate_sees_the_files_of_its_rules(tmp_path: Path) -> None:
    exam = tmp_path / "exams" / "a.jsonl"
    exam.parent.mkdir()
    exam.touch()
    document = json.loads(profile(["/data/a"], None).model_dump_json(exclude_unset=True))
    document["corpus"]["cleaning"] = {"evaluation_sets": [{"name": "exam", "path": str(exam)}]}
    found = parse_profile(json.dumps(document))
    assert stage_folders(found, "curate") == (exam,)
    assert source_folders(found) == (Path("/data/a"), exam)


def test_the_node_binds_the_folders_of_all_stages_once() -> None:
    assert source_folders(profile(["/data/a", "/data/b"], "/data/a/tasks")) == (Path("/data/a"), Path("/data/b"))
    assert source_folders(profile(["python-stdlib"], None)) == ()


def test_sec16_nothing_beside_a_source_that_is_one_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("text")
    (tmp_path / "secret").write_text("secret")
    found = profile([str(file)], None)
    assert stage_folders(found, "corpus") == (file,)
    assert source_folders(found) == (file,)
    context = job_context(found, plan(found), RUNTIME, name="job", stage="corpus", key="k", profile_text="")
    assert context["job"]["sources"] == [str(file)]
    assert stage_folders(profile([str(file), str(tmp_path)], None), "corpus") == (tmp_path,)
