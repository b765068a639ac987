"""Which folders of this machine a stage's pod sees: those that the profile names for it, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import StoreError
from sovereign.job_inputs import JobInputs, StoredInput, fetch_inputs, store_inputs
from sovereign.plan import plan
from sovereign.profile import Profile, parse_profile
from sovereign.render import render_template
from sovereign.site import init_site
from sovereign.store import FolderStore
from sovereign.workload import PodRuntime, job_context, source_folders, stage_folders

RUNTIME = PodRuntime(mode="host", image="host", pull_policy="Never", python="/python")

INPUTS = JobInputs(StoredInput("raw/tiny/inputs/0", "0"))


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
    context = job_context(found, plan(found), RUNTIME, name="job", stage=stage, key="k", inputs=INPUTS)
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
    context = job_context(found, plan(found), RUNTIME, name="job", stage="corpus", key="k", inputs=INPUTS)
    assert context["job"]["sources"] == [str(file)]
    assert stage_folders(profile([str(file), str(tmp_path)], None), "corpus") == (tmp_path,)


def test_sec13_100_000_withdrawals_reach_a_pod(tmp_path: Path) -> None:
    """10 MB of them, ten times what a ConfigMap holds."""
    file = tmp_path / "opt-outs.jsonl"
    file.write_text('{"date":"2026-05-01","document":"later"}\n')
    document = json.loads(profile(["/data/a"], None).model_dump_json(exclude_unset=True))
    document["corpus"]["rights"] = {"opt_outs": {"file": str(file)}}
    (tmp_path / "profile.yaml").write_text(json.dumps(document))
    site = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    line = '{{"date":"2026-05-01","document":"press/{:08}","reason":"by letter of the author"}}\n'
    site.withdrawals_file.write_text("".join(map(line.format, range(100_000))))
    store = FolderStore(tmp_path / "store")
    wanted = site.profile
    assert len(wanted.corpus.rights.withdrawn) == 100_000

    inputs = store_inputs(store, wanted, site.resolved_profile(), sees_files=False)
    assert store_inputs(store, wanted, site.resolved_profile(), sees_files=True) == JobInputs(inputs.profile)
    objects = render_template(
        "training/job",
        job_context(wanted, plan(wanted), RUNTIME, name="job", stage="curate", key="k", inputs=inputs),
    )
    (job,) = objects
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert len(json.dumps(job)) < 20_000
    assert "--opt-outs-digest" in container["command"] and inputs.profile.digest in container["command"]
    file.unlink()  # of another machine
    found = fetch_inputs(store, inputs, tmp_path / "work")
    assert found.corpus.rights.withdrawn == wanted.corpus.rights.withdrawn
    opt_outs = found.corpus.rights.opt_outs.file
    assert opt_outs is not None and "later" in Path(opt_outs).read_text()
    store.put_bytes(inputs.opt_outs.key if inputs.opt_outs else "", b"")
    with pytest.raises(StoreError, match="is not what its receipt says"):
        fetch_inputs(store, inputs, tmp_path / "again")
