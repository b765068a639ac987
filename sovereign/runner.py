"""Runs a stage here as a process, or as a Job through the cluster's queue; both speak the same progress lines.

`LocalRunner` and `JobRunner` are `Runner`s; `ensure_stage` starts a stage with either unless it is current.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TextIO

from sovereign.errors import StageError
from sovereign.files import sqlite_uri, write_atomic
from sovereign.locks import holder_of
from sovereign.plan import Plan, plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.stages import LOCK, is_current, load_stage, read_receipt
from sovereign.store import Store, open_store
from sovereign.workload import stop_grace_s

KEPT_LINES = 40
"""Lines of a stage's own output that an error shows."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
"""Exit codes of a stage's process that SIGTERM ended."""


@dataclass(frozen=True)
class StageEvent:
    """One progress line of a stage."""

    stage: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[StageEvent], None]


def parse_event(line: str) -> StageEvent | None:
    """The event in `line`, or None when the line is something else that the process wrote."""
    if not line.startswith('{"stage":'):
        return None
    try:
        return StageEvent(**json.loads(line))
    except (ValueError, TypeError):
        return None


class StageStopped(StageError):
    """A stage that was asked to stop has ended; what it had done is kept."""

    def __init__(self, stage: str, number: int, said: str) -> None:
        """Args: `number` is the signal; `said` is the last line of the stage's own output."""
        super().__init__(f"stage {stage} was stopped" + (f": {said}" if said else ""), hint="run it again to resume")
        self.exit_code = 128 + number


class Runner(Protocol):
    """Where stages run."""

    store: Store
    """The lake, as seen from here."""

    def current(self, name: str) -> Receipt | None:
        """The receipt of stage `name` when its present result is what it would make again."""
        ...

    def run(self, name: str, report: Report) -> Receipt:
        """Run stage `name` to its end.

        Raises:
            StageError: it failed; the message ends with the last lines that it wrote.
        """
        ...


def ensure_stage(runner: Runner, name: str, report: Report) -> tuple[Receipt, bool]:
    """The receipt of stage `name`, which is run unless it is current; and whether it was run.

    Raises:
        StageError: see `Runner.run`.
    """
    current = runner.current(name)
    if current is None:
        return runner.run(name, report), True
    report(StageEvent(name, "unchanged", 1, 1))
    return current, False


def current_receipt(name: str, profile: Profile, resolved: Plan, store: Store) -> Receipt | None:
    """The receipt of stage `name` in `store` when it is current; None also when a stage before has not run."""
    stage = load_stage(name)
    if any(read_receipt(store, load_stage(needed), profile.name) is None for needed in stage.needs):
        return None
    return is_current(store, stage, profile, resolved)


def finished_receipt(name: str, profile: Profile, store: Store) -> Receipt:
    """The receipt that stage `name` just left.

    Raises:
        StageError: it left none.
    """
    receipt = read_receipt(store, load_stage(name), profile.name)
    if receipt is None:
        raise StageError(f"stage {name} ended without a receipt", hint="run the command again")
    return receipt


def consume(lines: Iterable[str], report: Report) -> deque[str]:
    """Report the progress in `lines`; gives back the last other lines."""
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    for line in lines:
        event = parse_event(line)
        if event is not None:
            report(event)
        elif line.strip():
            kept.append(line.rstrip())
    return kept


def tracking_uri(data_dir: Path) -> str:
    """Where MLflow keeps the runs and models of stages that run without a cluster."""
    return sqlite_uri(data_dir / "mlflow.db")


class LocalRunner:
    """Runs stages as processes of this machine, with the lake in a folder."""

    def __init__(self, profile: Profile, profile_path: Path, data_dir: Path) -> None:
        self.profile = profile
        self.plan = plan(profile)
        self.profile_path = profile_path
        self.data_dir = data_dir
        self.store = open_store(f"file://{data_dir}")

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and models."""
        return tracking_uri(self.data_dir)

    def current(self, name: str) -> Receipt | None:
        return current_receipt(name, self.profile, self.plan, self.store)

    def log_path(self, name: str) -> Path:
        """All that the last run of stage `name` wrote, its progress too."""
        return self.data_dir / "logs" / f"{name}.log"

    def workdir(self, name: str) -> Path:
        """Work folder of stage `name`."""
        return self.data_dir / "work" / name

    def run(self, name: str, report: Report) -> Receipt:
        log_path = self.log_path(name)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text("")
        with (
            log_path.open("a", encoding="utf-8", buffering=1) as log,
            subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment(),
                cwd=self.data_dir,
                start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on
            ) as process,
            _pass_on_signals(process, lambda text: report(StageEvent(name, text))) as received,
        ):
            assert process.stdout is not None
            consume(_copied(process.stdout, log), report)
            code = process.wait()
        said = [line for line in log_path.read_text(encoding="utf-8").splitlines() if parse_event(line) is None]
        if received or code in _STOPPED:
            errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            raise StageStopped(name, received[0] if received else signal.SIGTERM, errors[-1] if errors else "")
        if code != 0:
            last = "\n  ".join(said[-KEPT_LINES:])
            raise StageError(
                f"stage {name} failed with exit code {code}:\n  {last}", hint=f"the whole log is {log_path}"
            )
        return finished_receipt(name, self.profile, self.store)

    def stop(self, name: str) -> None:
        """Ask stage `name`, which another command runs here, to stop; it leaves what it has done.

        Raises:
            StageError: it does not run.
        """
        holder = holder_of(self.workdir(name) / LOCK)
        if holder is None or "pid" not in holder:
            raise StageError(
                f"stage {name} does not run on this machine", hint=f"sovereign stage {name} PROFILE --local"
            )
        os.kill(holder["pid"], signal.SIGTERM)

    def _command(self, name: str) -> list[str]:
        arguments = ["run", name, "--profile", str(self.profile_path), "--store", self.store.url]
        arguments += ["--workdir", str(self.workdir(name))]
        if name == "curate" and (ranks := self.profile.corpus.curation.ranks) > 1:
            return [sys.executable, "-m", "sovereign.ranks", str(ranks), *arguments]
        ranks = self.plan.recipe.world_size if name == "train" else 1
        if ranks == 1:
            return [sys.executable, "-m", "sovereign.stages", *arguments]
        grace = ["--grace-s", str(stop_grace_s(self.plan))]
        return [sys.executable, "-m", "training.launch", "local", "--ranks", str(ranks), *grace, "--", *arguments]

    def _environment(self) -> dict[str, str]:
        offline = {
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
        }
        threads = {"OMP_NUM_THREADS": str(self.plan.recipe.threads or os.cpu_count() or 1)}
        return {**os.environ, **offline, **threads, "MLFLOW_TRACKING_URI": self.tracking_uri}


@contextmanager
def _pass_on_signals(process: subprocess.Popen[str], tell: Callable[[str], None]) -> Iterator[list[int]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into SIGTERM for `process`, and the second one into SIGKILL for its group.

    Gives the list of those that came.
    """
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            if len(received) == 1:
                process.terminate()
                threading.Thread(target=tell, args=("stopping; once more kills it",)).start()
            else:
                os.killpg(process.pid, signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield received
        return
    before = {number: signal.signal(number, forward) for number in _STOPS}
    try:
        yield received
    except BaseException:
        process.terminate()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copied(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    """`lines`, each also written to `log`."""
    for line in lines:
        log.write(line)
        yield line


def keep_receipt(receipt: Receipt, folder: Path) -> None:
    """Keep a copy of `receipt` in the site's folder, for people and for verification without the store.

    One for each result stays below `history`, so that what was made of a text is known after it was made anew.
    """
    write_atomic(folder / f"{receipt.stage}.json", receipt.to_bytes())
    past = folder / "history" / f"{receipt.stage}-{receipt.key[:16]}.json"
    if not past.exists():
        write_atomic(past, receipt.to_bytes())
