"""The records of a dataset's runs in the store, from their first step on and after they are replaced by others.

    models/<dataset>/runs/<first 8 digits of the run's digest>/run.json        what and how far it is (`Run`)
                                                              metrics.jsonl   its numbers by step
                                                              deepspeed-<step>.json   what DeepSpeed got from there on

Rank 0 writes them every half minute and at the end; a run that was killed stays RUNNING with its last time. They need
no MLflow and are what `sovereign runs` reads. What DeepSpeed got is written at each start, by the step from which on a
stretch (training/manifest.py) trained.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from sovereign.errors import StoreError, TrainingError
from sovereign.plan import Plan
from sovereign.receipts import code_version, made_by, now
from sovereign.store import Store
from training.tracking import Record

RUN, METRICS = "run.json", "metrics.jsonl"
_WRITE_EVERY_S = 30.0


@dataclass(frozen=True)
class Run:
    """One run."""

    run: str
    """Digest of configuration and inputs, as in the checkpoints and in MLflow's tag."""
    status: str
    """RUNNING, FINISHED, KILLED (stopped, to go on later) or FAILED."""
    step: int
    """Steps done."""
    started_at: str
    updated_at: str
    plan: dict[str, Any]
    """The resolved plan."""
    problems: list[str]
    """What the check of the machines found when it last started."""
    summary: dict[str, Any]
    """Numbers of the receipt, when it is finished."""
    code_version: str = field(default_factory=code_version)
    made_by: str = field(default_factory=made_by)
    lines: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The record: one entry for each logged step. Not in run.json."""

    @property
    def name(self) -> str:
        """First 8 digits of the digest."""
        return self.run[:8]

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one number."""
        found = [(line["step"], line[name]) for line in self.lines if name in line]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, name: str) -> float | None:
        """The newest value of a number."""
        return next((line[name] for line in reversed(self.lines) if name in line), None)


def prefix_of(dataset: str) -> str:
    """Store key of the records' folder."""
    return f"models/{dataset}/runs/"


class RunWriter:
    """Writes the record of one run into the store; one that is slow or away does not hold training up."""

    def __init__(
        self,
        store: Store,
        dataset: str,
        digest: str,
        plan: Plan,
        problems: Sequence[str],
        *,
        enabled: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Args: `problems` that were found with the machines; `enabled` on rank 0."""
        self._store, self._digest, self._problems, self._warn = store, digest, list(problems), warn
        self._prefix = f"{prefix_of(dataset)}{digest[:8]}/"
        self._plan = plan.model_dump(mode="json")
        self._enabled = enabled
        self._written_at = -_WRITE_EVERY_S
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="run-record")
        self._writing: Future[None] | None = None
        self._started_at = now()
        if enabled and store.exists(self._prefix + RUN):
            self._started_at = json.loads(store.get_bytes(self._prefix + RUN))["started_at"]

    def write(
        self, status: str, record: Record, summary: Mapping[str, Any] | None = None, *, soon: bool = False
    ) -> None:
        """Store the record as it is now, and wait until it is.

        With `soon` a thread does so, when the last time is half a minute ago and over.
        """
        if not self._enabled or (soon and not self._is_due()):
            return
        self._await_writing()
        self._written_at = time.monotonic()
        step = record.lines[-1]["step"] if record.lines else 0
        run = Run(self._digest, status, step, self._started_at, now(), self._plan, self._problems, dict(summary or {}))
        self._writing = self._writer.submit(self._store_record, run, record.path.read_bytes())
        if not soon:
            self._await_writing()

    def _is_due(self) -> bool:
        is_writing = self._writing is not None and not self._writing.done()
        return not is_writing and time.monotonic() - self._written_at >= _WRITE_EVERY_S

    def _store_record(self, run: Run, metrics: bytes) -> None:
        self._store.put_bytes(self._prefix + METRICS, metrics)
        values = {name: value for name, value in asdict(run).items() if name != "lines"}
        self._store.put_bytes(self._prefix + RUN, json.dumps(values, indent=1).encode())

    def _await_writing(self) -> None:
        if self._writing is not None:
            try:
                self._writing.result()
            except StoreError as error:
                self._warn(f"the run's record could not be stored, training goes on: {error}")
            self._writing = None

    def keep(self, name: str, content: str) -> str:
        """Store a file beside the record; returns its key."""
        if self._enabled:
            self._store.put_bytes(self._prefix + name, content.encode())
        return self._prefix + name


def read_runs(store: Store, dataset: str) -> list[Run]:
    """All runs, the last started one first, each with its lines."""
    keys = [key for key in store.list(prefix_of(dataset)) if key.endswith(f"/{RUN}")]
    runs = [_read(store, key.removesuffix(RUN)) for key in keys]
    return sorted(runs, key=lambda run: run.started_at, reverse=True)


def choose(runs: list[Run], names: Sequence[str]) -> list[Run]:
    """The runs whose digests begin with `names`, in their order; all when there are none.

    Raises:
        TrainingError: there is no run at all, or none or several of a name.
    """
    if not runs:
        raise TrainingError("there are no runs yet", hint="sovereign train PROFILE")
    chosen = []
    for name in names:
        found = [run for run in runs if run.run.startswith(name)]
        if len(found) != 1:
            known = ", ".join(run.name for run in runs)
            raise TrainingError("no such run" if not found else "several runs begin so", got=name, expected=known)
        chosen += found
    return chosen or runs


def _read(store: Store, prefix: str) -> Run:
    values = json.loads(store.get_bytes(prefix + RUN))
    lines = [json.loads(line) for line in store.get_bytes(prefix + METRICS).decode().splitlines()]
    return Run(**values, lines=lines)
