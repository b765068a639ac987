"""The record of a run, on disk and in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.tracking import MlflowLog, Record

# MLflow's own code and that of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_record_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    first = Record(tmp_path / "first.jsonl")
    first.add({"step": 1, "loss": 2.0})
    second = Record(tmp_path / "second.jsonl", before=first.path)
    first.add({"step": 2, "loss": 9.0})  # after the checkpoint, lost with the process
    second.add({"step": 2, "loss": 1.0})
    assert [json.loads(line)["loss"] for line in second.path.read_text().splitlines()] == [2.0, 1.0]
    assert [line["step"] for line in second.lines] == [1, 2]


def test_metrics_reach_mlflow_and_a_restarted_process_finds_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.registry import open_client

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    warnings: list[str] = []
    runs = []
    for step, status in ((1, "KILLED"), (2, "FINISHED")):
        log = MlflowLog("tiny", "d" * 64, {"batch": 4}, enabled=True, warn=warnings.append)
        log.add(step, {"loss": 10.0 / step})
        log.close(status)
        runs.append(log.run_id)
    assert warnings == []
    assert runs[0] == runs[1]
    client = open_client(uri)
    run = client.get_run(str(runs[0]))
    assert (run.info.status, run.data.params["batch"]) == ("FINISHED", "4")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 10.0), (2, 5.0)]


def test_an_unreachable_server_does_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    warnings: list[str] = []
    log = MlflowLog("tiny", "d" * 64, {}, enabled=True, warn=warnings.append)
    log.add(1, {"loss": 1.0})
    log.close("FINISHED")
    assert len(warnings) == 1 and "MLflow cannot be reached, training goes on" in warnings[0]
    assert log.run_id is None


def test_nothing_is_sent_where_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = MlflowLog("tiny", "d" * 64, {}, enabled=True, warn=pytest.fail)
    log.add(1, {"loss": 1.0})
    log.close("FINISHED")
    assert log.run_id is None
