"""The record of a run, on disk and in MLflow."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sovereign.files import sqlite_uri
from sovereign.lake.catalog import database_address
from training.tracking import RUN_TAG, MlflowLog, Record, send_missing

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
    log = MlflowLog("tiny", "d" * 64, {}, enabled=True, warn=warnings.append, close_wait_s=0)
    log.add(1, {"loss": 1.0})
    log.close("FINISHED")
    assert len(warnings) == 2 and "MLflow cannot be reached, training continues" in warnings[0]
    assert "did not take all metrics" in warnings[1]
    assert log.run_id is None and not log.is_complete


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is writing the SQLite database."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


def test_t6_a_database_that_is_locked_at_its_creation_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.registry import open_client

    uri = sqlite_uri(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    warnings, has_failed = [], threading.Event()

    def warn(text: str) -> None:
        warnings.append(text)
        has_failed.set()

    with locked(tmp_path / "mlflow.db"):
        log = MlflowLog("tiny", "d" * 64, {"batch": 4}, enabled=True, warn=warn)
        log.add(1, {"loss": 2.0})
        assert has_failed.wait(240)
    log.add(2, {"loss": 1.0})
    log.close("FINISHED")
    assert len(warnings) == 1 and "training continues" in warnings[0] and log.is_complete
    run = open_client(uri).get_run(str(log.run_id))
    assert (run.info.status, run.data.params) == ("FINISHED", {"batch": "4"})
    assert [m.step for m in open_client(uri).get_metric_history(str(log.run_id), "loss")] == [1, 2]


def test_t6_what_was_not_sent_is_sent_from_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.registry import experiment_id, open_client

    uri = sqlite_uri(tmp_path / "mlflow.db")
    lines = [{"step": step, "loss": 10.0 / step} for step in (1, 2, 3)] + [{"step": 3, "heldout": 2.5}]
    client = open_client(uri)
    run_id = client.create_run(experiment_id(client, "tiny"), tags={RUN_TAG: "d" * 64}).info.run_id
    client.log_metric(run_id, "loss", 10.0, step=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log = MlflowLog("tiny", "d" * 64, {}, enabled=True, warn=pytest.fail, before=lines)  # a process that resumes
    log.add(4, {"loss": 2.5})
    log.close("FINISHED")
    send_missing(client, run_id, [*lines, {"step": 4, "loss": 2.5}])  # as stage register does
    assert log.run_id == run_id
    history = {name: client.get_metric_history(run_id, name) for name in ("loss", "heldout")}
    losses = sorted((metric.step, metric.value) for metric in history["loss"])
    assert losses == [(1, 10.0), (2, 5.0), (3, pytest.approx(10.0 / 3)), (4, 2.5)]
    assert [(m.step, m.value) for m in history["heldout"]] == [(3, 2.5)]


@pytest.mark.parametrize("name", ["p%41q", "p?q", "p#q", "p%2Fq r&s=ü"])
def test_t9_any_path_is_the_one_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from sqlalchemy.engine import make_url

    from training.registry import experiment_id, open_client

    folder, cwd = tmp_path / "site" / name, tmp_path / "cwd"
    folder.mkdir(parents=True)
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    (tmp_path / "file").write_text("x")
    assert make_url(database_address(None, folder / "catalog.db")).database == str(folder / "catalog.db")
    client = open_client(sqlite_uri(folder / "mlflow.db"))
    run = client.create_run(experiment_id(client, "tiny"))
    client.log_artifact(run.info.run_id, str(tmp_path / "file"), "model")
    assert [item.path for item in client.list_artifacts(run.info.run_id, "model")] == ["model/file"]
    assert (folder / "mlflow.db").is_file() and len(list((folder / "mlruns").rglob("model/file"))) == 1
    assert [path.name for path in (tmp_path / "site").iterdir()] == [name]
    assert list(cwd.iterdir()) == []


def test_nothing_is_sent_where_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = MlflowLog("tiny", "d" * 64, {}, enabled=True, warn=pytest.fail)
    log.add(1, {"loss": 1.0})
    log.close("FINISHED")
    assert log.run_id is None
