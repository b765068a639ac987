"""The record of a run: metrics.jsonl, and MLflow while it runs where MLFLOW_TRACKING_URI names a server.

A thread sends metrics in batches; when MLflow cannot be reached, they wait and training goes on.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.registry import open_client

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

RUN_TAG = "sovereign.run"
"""Tag of an MLflow run: the digest of its configuration and inputs."""
_SEND_EVERY_S = 2.0
_RETRY_AFTER_S = 15.0
_CLOSE_WAIT_S = 60.0
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
    ) -> None:
        """Args: `run` is the run's digest: a process that goes on from a checkpoint finds the MLflow run by it."""
        self.run_id: str | None = None
        self._tags = dict(tags or {})
        self._experiment, self._run, self._parameters, self._warn = experiment, run, parameters, warn
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") if enabled else None
        self._waiting: queue.SimpleQueue[tuple[int, int, dict[str, float]]] = queue.SimpleQueue()
        self._closing = threading.Event()
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
        if self._uri:
            self._status = status
            self._closing.set()
            self._thread.join(_CLOSE_WAIT_S)
            if self._thread.is_alive():
                self._warn("MLflow does not answer; the last metrics are in metrics.jsonl only")

    def _work(self) -> None:
        from mlflow.exceptions import MlflowException

        client: MlflowClient | None = None
        unsent: list[Metric] = []
        is_last, failures = False, 0
        while not is_last:
            is_last = self._closing.wait(_RETRY_AFTER_S if failures else _SEND_EVERY_S)
            unsent += self._take()
            try:
                if client is None:
                    client = open_client(str(self._uri))
                    self.run_id = self._open_run(client)
                while unsent:
                    client.log_batch(str(self.run_id), metrics=unsent[:_BATCH])
                    del unsent[:_BATCH]
                if is_last:
                    client.set_terminated(str(self.run_id), status=self._status)
                failures = 0
            except (MlflowException, OSError) as error:
                client = None
                failures += 1
                if failures == 1 or is_last:
                    self._warn(f"MLflow cannot be reached, training goes on: {str(error).splitlines()[0][:200]}")

    def _take(self) -> list[Metric]:
        from mlflow.entities import Metric

        metrics = []
        while not self._waiting.empty():
            at_ms, step, values = self._waiting.get()
            metrics += [Metric(name, value, at_ms, step) for name, value in values.items()]
        return metrics

    def _open_run(self, client: MlflowClient) -> str:
        """The run with the tag, else a new one."""
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self._experiment)
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{self._run}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
            return run_id
        tags = {RUN_TAG: self._run} | self._tags
        run = client.create_run(experiment_id, run_name=f"{self._experiment} {self._run[:8]}", tags=tags)
        for name, value in self._parameters.items():
            client.log_param(run.info.run_id, name, value)
        return str(run.info.run_id)
