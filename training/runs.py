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
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sovereign.errors import StoreError, TrainingError
from sovereign.files import json_object
from sovereign.plan import Plan
from sovereign.receipts import code_version, made_by, now
from sovereign.store import Store
from training.tracking import Record

RUN, METRICS = "run.json", "metrics.jsonl"
SPEEDS = ("tokens_per_s", "mfu", "tflops_per_device", "of_matmul_ceiling", "joules_per_million_tokens")
"""Numbers that vary from step to step without a direction."""
_DAMAGED = ".damaged"
"""Ends the name of a record that could not be read, kept for people to look at."""
_HINT = "the run's checkpoints do not depend on it; delete it, and the next training writes a new one"
_WRITE_EVERY_S = 30.0


@dataclass(frozen=True)
class Run:
    """One run."""

    run: str
    """Digest of configuration and inputs, as in the checkpoints and in MLflow's tag."""
    status: str
    """RUNNING, FINISHED, KILLED (stopped; can be resumed) or FAILED."""
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

    def number(self, name: str) -> float | None:
        """A number of the run as it is shown everywhere: of a speed what is typical, of anything else the newest."""
        if name in SPEEDS:
            return self.summary.get(name, typical(self.lines, name))
        return next((line[name] for line in reversed(self.lines) if name in line), None)


def typical(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The median of one number over the steps of a record without its first twentieth, in which the model compiles."""
    values = [line[name] for line in lines if "loss" in line and name in line]
    return statistics.median(values[len(values) // 20 :]) if values else None


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
            self._take_over(store.get_bytes(self._prefix + RUN))

    def _take_over(self, record: bytes) -> None:
        """Keep the start of the run in its record; set a damaged record aside."""
        try:
            self._started_at = str(_parse(record, self._prefix + RUN)["started_at"])
        except TrainingError as error:
            aside = f"{self._prefix}{RUN}{_DAMAGED}"
            self._store.put_bytes(aside, record)
            self._warn(f"{error.message}; it is set aside as {aside}, training continues")

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
                self._warn(f"the run's record could not be stored, training continues: {error}")
            self._writing = None

    def keep(self, name: str, content: str) -> str:
        """Store a file beside the record; returns its key."""
        if self._enabled:
            self._store.put_bytes(self._prefix + name, content.encode())
        return self._prefix + name


def _warn(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


def read_runs(store: Store, dataset: str, warn: Callable[[str], None] = _warn) -> list[Run]:
    """All runs, the last started one first, each with its lines; damaged records are left out with a warning."""
    runs = []
    for key in store.list(prefix_of(dataset)):
        if key.endswith(f"/{RUN}"):
            try:
                runs.append(_read(store, key.removesuffix(RUN)))
            except (TrainingError, StoreError) as error:
                warn(f"a run is left out: {error.message}")
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


_RECORD = TypeAdapter(Run)


def _read(store: Store, prefix: str) -> Run:
    values = _parse(store.get_bytes(prefix + RUN), prefix + RUN)
    key = prefix + METRICS
    lines = [
        json_object(line, f"line {number} of {key}", TrainingError, hint=_HINT)
        for number, line in enumerate(store.get_bytes(key).splitlines(), 1)
    ]
    for number, line in enumerate(lines, 1):
        odd = sorted(name for name, value in line.items() if not isinstance(value, int | float))
        if odd or not isinstance(line.get("step"), int):
            raise TrainingError(f"line {number} of {key} is damaged", got=f"no number: {odd or 'step'}", hint=_HINT)
    return Run(**values, lines=lines)


def _parse(record: bytes, key: str) -> dict[str, Any]:
    """The values of run.json.

    Raises:
        TrainingError: it is damaged.
    """
    values = json_object(record, key, TrainingError, hint=_HINT)
    expected = {item.name for item in fields(Run)} - {"lines"}
    if values.keys() != expected:
        odd = ", ".join(sorted(values.keys() ^ expected))
        raise TrainingError(f"{key} is damaged", got=f"missing or unknown: {odd}", hint=_HINT)
    try:
        _RECORD.validate_json(record, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise TrainingError(f"{key} is damaged", got=got, hint=_HINT) from error
    recipe = values["plan"].get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("num_steps"), int):
        raise TrainingError(f"{key} is damaged", got="a plan without steps", hint=_HINT)
    return values
