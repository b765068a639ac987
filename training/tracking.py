"""The record of a run: metrics.jsonl, and MLflow while it runs where MLFLOW_TRACKING_URI names a server.

A thread sends metrics in batches. When MLflow cannot be reached, they wait and training continues; what it has not
taken in the end, the stage `register` or the next process of the run sends from the record.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.registry import experiment_id, open_client

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

RUN_TAG = "sovereign.run"
"""Tag of an MLflow run: the digest of its configuration and inputs."""
_SEND_EVERY_S = 2.0
_RETRY_AFTER_S = 15.0
_CLOSE_WAIT_S = 60.0
_RETRY_AT_END_S = 1.0
_CALL_S = 30.0
"""How long one call of MLflow may take: its time-outs, and those of SQLite's lock."""
_BATCH = 1000  # MLflow's limit for one request


class Record:
    """metrics.jsonl of a run: one line for each logged step."""

    def __init__(self, path: Path, before: Path | None = None) -> None:
        """Args: `before` is the record up to the checkpoint that the run goes on from."""
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if before is not None:
            self.lines = [json.loads(line) for line in before.read_text().splitlines()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        self.lines.append(dict(line))
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class MlflowLog:
    """Metrics to MLflow from a thread; does nothing where no server is named."""

    def __init__(
        self,
        experiment: str,
        run: str,
        parameters: Mapping[str, Any],
        *,
        enabled: bool,
        warn: Callable[[str], None],
        tags: Mapping[str, str] | None = None,
        before: Sequence[Mapping[str, Any]] = (),
        close_wait_s: float = _CLOSE_WAIT_S,
    ) -> None:
        """Args:
        run: the run's digest: a process that resumes from a checkpoint finds the MLflow run by it.
        before: lines of the record up to that checkpoint; those that MLflow lacks are sent.
        close_wait_s: how long `close` tries to send what waits.
        """
        self.run_id: str | None = None
        self.is_complete = False
        """MLflow has all metrics."""
        self._tags, self._before, self._close_wait_s = dict(tags or {}), list(before), close_wait_s
        self._experiment, self._run, self._parameters, self._warn = experiment, run, parameters, warn
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") if enabled else None
        self._waiting: queue.SimpleQueue[tuple[int, int, dict[str, float]]] = queue.SimpleQueue()
        self._unsent: list[Metric] = []
        self._client: MlflowClient | None = None
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._status = "FINISHED"
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if self._uri:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            self._thread.start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step, soon."""
        if self._uri:
            self._waiting.put((int(time.time() * 1000), step, dict(values)))

    def close(self, status: str) -> None:
        """Send what waits, within a minute, and end the MLflow run as FINISHED, FAILED or KILLED."""
        if not self._uri:
            return
        self._status, self._give_up_at = status, time.monotonic() + self._close_wait_s
        self._closing.set()
        self._thread.join(self._close_wait_s + _CALL_S)
        if not self.is_complete:
            self._warn("MLflow did not take all metrics; they are in metrics.jsonl, and stage register sends them")

    def _work(self) -> None:
        has_failed = False
        while not self.is_complete:
            is_last = self._closing.wait(_RETRY_AFTER_S if has_failed else _SEND_EVERY_S)
            self._unsent += self._take()
            try:
                self._send()
                if is_last:
                    self._end()
                has_failed = False
            except Exception as error:  # noqa: BLE001  (a locked database, a damaged one, any server: training must not care)
                self._client = None
                if not has_failed:
                    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    self._warn(f"MLflow cannot be reached, training continues: {reason}")
                has_failed = True
                if time.monotonic() >= self._give_up_at:
                    return
                if is_last:
                    time.sleep(_RETRY_AT_END_S)

    def _send(self) -> None:
        if self._client is None:
            client = open_client(str(self._uri), patience_s=0)
            self.run_id = self._open_run(client)
            self._client = client
        while self._unsent:
            self._client.log_batch(str(self.run_id), metrics=self._unsent[:_BATCH])
            del self._unsent[:_BATCH]

    def _end(self) -> None:
        assert self._client is not None
        self._client.set_terminated(str(self.run_id), status=self._status)
        self.is_complete = True

    def _take(self) -> list[Metric]:
        from mlflow.entities import Metric

        metrics = []
        while not self._waiting.empty():
            at_ms, step, values = self._waiting.get()
            metrics += [Metric(name, value, at_ms, step) for name, value in values.items()]
        return metrics

    def _open_run(self, client: MlflowClient) -> str:
        """The run with the tag, else a new one."""
        experiment = experiment_id(client, self._experiment)
        found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self._run}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
        else:
            tags = {RUN_TAG: self._run} | self._tags
            run = client.create_run(experiment, run_name=f"{self._experiment} {self._run[:8]}", tags=tags)
            run_id = str(run.info.run_id)
        known = client.get_run(run_id).data.params  # of a run that was made, perhaps not all of them
        for name, value in self._parameters.items():
            if name not in known:
                client.log_param(run_id, name, value)
        send_missing(client, run_id, self._before)
        self._before = []
        return run_id


def send_missing(client: MlflowClient, run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Send the numbers of a record that the run does not have yet, by name and step."""
    from mlflow.entities import Metric

    names = sorted({name for line in lines for name in line} - {"step"})
    known = {name: {metric.step for metric in client.get_metric_history(run_id, name)} for name in names}
    at_ms = int(time.time() * 1000)
    missing = [
        Metric(name, float(value), at_ms, line["step"])
        for line in lines
        for name, value in line.items()
        if name != "step" and line["step"] not in known[name]
    ]
    for start in range(0, len(missing), _BATCH):
        client.log_batch(run_id, metrics=missing[start : start + _BATCH])
