"""Progress lines of stages, and stages as local processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sovereign.cli.sites import find_profile
from sovereign.errors import StageError
from sovereign.locks import refuse_second
from sovereign.profile import load_profile
from sovereign.receipts import Receipt
from sovereign.runner import LocalRunner, StageEvent, consume, ensure_stage, keep_receipt, parse_event
from sovereign.stages import LOCK


def local_runner(folder: Path) -> LocalRunner:
    path = find_profile(Path("ci"))
    return LocalRunner(load_profile(path), path, folder)


def ignore(_event: StageEvent) -> None:
    """No progress wanted."""


def test_progress_is_told_apart_from_other_lines() -> None:
    events: list[StageEvent] = []
    line = json.dumps(
        {"stage": "train", "message": "", "done": 3, "total": 9, "unit": "steps", "metrics": {"loss": 2.5}}
    )
    kept = consume([line + "\n", "a warning\n", "\n", '{"stage": broken\n'], events.append)
    assert events == [StageEvent("train", "", 3, 9, "steps", {"loss": 2.5})]
    assert list(kept) == ["a warning", '{"stage": broken']
    assert parse_event('{"stage": "x", "unknown": 1}') is None


@pytest.fixture(scope="module")
def after_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Receipt]:
    """A local lake in which stage corpus has run, and its receipt."""
    folder = tmp_path_factory.mktemp("lake")
    return folder, local_runner(folder).run("corpus", ignore)


@pytest.fixture
def runner(after_corpus: tuple[Path, Receipt], tmp_path: Path) -> LocalRunner:
    """A runner over a copy of that lake."""
    shutil.copytree(after_corpus[0], tmp_path / "lake")
    return local_runner(tmp_path / "lake")


def test_stage_that_is_current_is_not_run_again(runner: LocalRunner, after_corpus: tuple[Path, Receipt]) -> None:
    events: list[StageEvent] = []
    assert ensure_stage(runner, "corpus", events.append) == (after_corpus[1], False)
    assert [event.message for event in events] == ["unchanged"]
    assert all(key.startswith("raw/ci/") for key in after_corpus[1].outputs)


def test_lost_output_is_made_again_the_same(runner: LocalRunner, after_corpus: tuple[Path, Receipt]) -> None:
    lost = sorted(after_corpus[1].outputs)[0]
    runner.store.delete(lost)
    assert runner.current("corpus") is None
    made, was_run = ensure_stage(runner, "corpus", ignore)
    assert was_run and made.outputs == after_corpus[1].outputs
    assert runner.store.exists(lost)


def test_ranks_of_curation_are_processes_of_this_machine(
    runner: LocalRunner, after_corpus: tuple[Path, Receipt]
) -> None:
    events: list[StageEvent] = []
    alone = runner.run("curate", ignore)
    runner.store.delete("curated/ci/receipt.json")
    corpus = runner.profile.model_dump(mode="json") | {"name": "ci"}
    corpus["corpus"]["curation"]["ranks"] = 3
    path = runner.data_dir / "profile.yaml"
    path.write_text(yaml.safe_dump(corpus))
    together = LocalRunner(load_profile(path), path, runner.data_dir).run("curate", events.append)
    assert (together.outputs, together.key, together.metrics) == (alone.outputs, alone.key, alone.metrics)
    assert {event.stage for event in events} == {"curate"} and events[-1].message == "done"
    assert (runner.data_dir / "work" / "curate" / "rank-2").is_dir()


def test_stage_without_the_one_before_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="needs stage corpus"):
        local_runner(tmp_path).run("curate", ignore)


def test_damaged_input_is_refused_with_its_digest(runner: LocalRunner, after_corpus: tuple[Path, Receipt]) -> None:
    questions = next(key for key in after_corpus[1].outputs if key.endswith("questions.jsonl"))
    runner.store.put_bytes(questions, b"{}")
    with pytest.raises(StageError, match="not what its receipt says"):
        runner.run("curate", ignore)


def test_receipts_are_kept_for_people(after_corpus: tuple[Path, Receipt], tmp_path: Path) -> None:
    keep_receipt(after_corpus[1], tmp_path)
    assert Receipt.from_bytes((tmp_path / "corpus.json").read_bytes()) == after_corpus[1]


def test_t5_stopping_what_has_ended_says_so(tmp_path: Path) -> None:
    """Also where a program that the stage started still has its lock."""
    runner = local_runner(tmp_path)
    lock = runner.workdir("train") / LOCK
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with pytest.raises(StageError, match="does not run on this machine"):
        runner.stop("train")
    with refuse_second(lock, "the work folder"):
        lock.write_text(json.dumps({"pid": ended.pid}))
        with pytest.raises(StageError, match="does not run on this machine"):
            runner.stop("train")
