"""Kills training at random moments, goes on, and compares with runs that nobody disturbed: every bit must agree.

    python -m training.campaign FOLDER [--kills 300] [--seed N]     a line of JSON for each kill; interrupted, goes on

A tiny model is trained on one and on two ranks with ZeRO 1, 2 and 3. Each kill takes every rank by SIGKILL, in a drawn
order and a moment apart, and half of them the disks too. Every second one comes between the first checkpoint and the
last step, so that the run must resume; the others at any moment. What must be the same: the optimizer's state, the
weights and the loss of every step.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sovereign.errors import TrainingError
from sovereign.files import sha256_file, write_atomic
from training.forked import NUM_STEPS, TINY, finish, prepare_lake, start_ranks, write_profile
from training.manifest import COMMIT, METRICS

COMBINATIONS = ((0, 1), *((zero_stage, num_ranks) for zero_stage in (1, 2, 3) for num_ranks in (1, 2)))
"""ZeRO stage and number of ranks."""
TRAIN = "models/tiny/train"
_LONGEST_GAP_S = 0.3
_STEP_LIMIT_S = 240.0
_STARTED = "making the model"
_FIRST_CHECKPOINT: int = TINY["training"]["checkpoint_every_steps"]
_ATTEMPTS = 5


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    losses: tuple[float, ...]
    """Of every step."""
    model: str
    """SHA-256 of the exported weights."""
    state: tuple[str, ...]
    """SHA-256 of each rank's file of the last checkpoint: master weights, moments, random states."""
    resumed_from: int | None


def outcome(store_root: Path) -> Outcome:
    """What the run in this store left."""
    folder = store_root / TRAIN
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = max(folder.glob("checkpoints/*/step-*/manifest.json"))
    files = json.loads(last.read_text())["files"]
    return Outcome(
        losses=tuple(line["loss"] for line in lines if "loss" in line),
        model=sha256_file(folder / "model" / "model.safetensors"),
        state=tuple(files[name] for name in sorted(files) if name.startswith("rank-")),
        resumed_from=json.loads((folder / "receipt.json").read_text())["predicate"]["metrics"]["resumed_from"],
    )


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed."""

    outcome: Outcome
    seconds_per_step: float
    """From the making of the model to the end, divided by the steps."""
    step_s: float
    """Of a step alone, the median."""


@dataclass(frozen=True)
class Moment:
    """When ranks are killed."""

    step: int
    """Steps done; 0 is after the start."""
    delay_s: float
    """After that."""
    after_commit: bool = False
    """Not before a checkpoint is whole in the store."""


def any_moment(draw: random.Random, reference: Reference) -> Moment:
    """From the making of the model until after the end."""
    return Moment(draw.randrange(NUM_STEPS + 1), draw.uniform(0, 2 * reference.seconds_per_step))


def resuming_moment(draw: random.Random, reference: Reference) -> Moment:
    """Between the commit of a checkpoint and the last step."""
    return Moment(
        draw.randrange(_FIRST_CHECKPOINT, NUM_STEPS - 2), draw.uniform(0, reference.step_s), after_commit=True
    )


class Campaign:
    """Trials in one folder: the lake, the undisturbed run of each combination, and the trials' own folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lake = prepare_lake(write_profile(folder / "lake.json"), folder / "lake", folder / "lake-work")
        self._references: dict[tuple[int, int], Reference] = {}

    def reference(self, zero_stage: int, num_ranks: int) -> Reference:
        """The undisturbed run of a combination, made at the first call.

        Raises:
            TrainingError: it fails.
        """
        key = (zero_stage, num_ranks)
        if key not in self._references:
            with _emptied(self._folder / f"reference-{zero_stage}-{num_ranks}") as folder:
                processes = self._start(folder, zero_stage, num_ranks)
                _await_step(folder, processes, 0)
                started = time.monotonic()
                self._expect_success(folder, processes)
                seconds = time.monotonic() - started
                lines = (folder / "store" / TRAIN / METRICS).read_text().splitlines()
                step_s = next(line["step_p50_s"] for line in map(json.loads, reversed(lines)) if "step_p50_s" in line)
                self._references[key] = Reference(outcome(folder / "store"), seconds / NUM_STEPS, step_s)
        return self._references[key]

    def trial(
        self, zero_stage: int, num_ranks: int, seed: str, kills: int = 1, *, must_resume: bool = True
    ) -> dict[str, Any]:
        """Kill a run `kills` times, let it end, and compare.

        Args:
            must_resume: the first kill comes between a checkpoint and the last step; the others at any moment.

        Raises:
            TrainingError: a run fails or hangs, or was always over before it could be killed.
        """
        reference = self.reference(zero_stage, num_ranks)
        draw = random.Random(seed)  # noqa: S311  # no secret
        with _emptied(self._folder / f"trial-{zero_stage}-{num_ranks}") as folder:
            killed = []
            for number in range(kills):
                choose = resuming_moment if must_resume and number == 0 else any_moment
                killed.append(self._kill(folder, zero_stage, num_ranks, draw, choose))
            self._expect_success(folder, self._start(folder, zero_stage, num_ranks))
            found = outcome(folder / "store")
        return {
            "zero_stage": zero_stage,
            "ranks": num_ranks,
            "seed": seed,
            "kills": killed,
            "resumed_from": found.resumed_from,
            "differs": _differences(found, reference.outcome),
        }

    def _kill(
        self,
        folder: Path,
        zero_stage: int,
        num_ranks: int,
        draw: random.Random,
        choose: Callable[[random.Random, Reference], Moment],
    ) -> dict[str, Any]:
        """Start the run and kill it; one that must resume and was over too soon is done again from its beginning."""
        for _ in range(_ATTEMPTS):
            moment = choose(draw, self.reference(zero_stage, num_ranks))
            killed = kill_ranks(folder, self._start(folder, zero_stage, num_ranks), draw, moment)
            if not moment.after_commit or killed["steps_done"] < NUM_STEPS:
                return killed
            for name in ("store", "work"):
                shutil.rmtree(folder / name, ignore_errors=True)
        raise TrainingError(f"{_ATTEMPTS} runs were over before they could be killed", hint="is the machine very busy?")

    def _start(self, folder: Path, zero_stage: int, num_ranks: int) -> list[ForkServerProcess]:
        if not (folder / "store").exists():
            shutil.copytree(self._lake, folder / "store")
        for path in (folder / "log", folder / "work" / METRICS):
            path.unlink(missing_ok=True)
        profile = write_profile(folder / "profile.json", zero_stage=zero_stage, pods=num_ranks)
        return start_ranks(profile, folder / "store", folder / "work", folder / "log", num_ranks)

    def _expect_success(self, folder: Path, processes: Sequence[ForkServerProcess]) -> None:
        codes = finish(processes)
        if any(codes):
            raise TrainingError("a run failed", got=f"exit codes {codes}", hint=(folder / "log").read_text()[-2000:])


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, removed when all went well and kept for a look when not."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def kill_ranks(
    folder: Path, processes: Sequence[ForkServerProcess], draw: random.Random, moment: Moment
) -> dict[str, Any]:
    """Kill the ranks at a moment; tells when and how far they were."""
    _await_step(folder, processes, moment.step, after_commit=moment.after_commit)
    time.sleep(moment.delay_s)
    was_running = all(process.is_alive() for process in processes)
    for process in draw.sample(processes, len(processes)):
        process.kill()
        time.sleep(draw.uniform(0, _LONGEST_GAP_S) if len(processes) > 1 else 0)
    finish(processes)
    steps_done = _steps_done(folder)
    if disk_lost := draw.random() < 0.5:
        with suppress(FileNotFoundError):  # killed early, no rank has made it yet
            shutil.rmtree(folder / "work")
    told = asdict(moment) | {"delay_s": round(moment.delay_s, 3)}
    return told | {"was_running": was_running, "steps_done": steps_done, "disk_lost": disk_lost}


def _steps_done(folder: Path) -> int:
    record = folder / "work" / METRICS
    return record.read_text().count('"loss"') if record.exists() else 0


def _await_step(folder: Path, processes: Sequence[ForkServerProcess], step: int, *, after_commit: bool = False) -> None:
    """Wait until the model is being made and `step` steps are done, or a process has ended."""
    log, checkpoints = folder / "log", folder / "store" / TRAIN / "checkpoints"
    deadline = time.monotonic() + _STEP_LIMIT_S
    while all(process.is_alive() for process in processes):
        has_started = log.exists() and _STARTED in log.read_text()
        is_there = has_started and (step == 0 or _steps_done(folder) >= step)
        if is_there and (not after_commit or any(checkpoints.glob(f"*/*/{COMMIT}"))):
            return
        if time.monotonic() > deadline:
            raise TrainingError(f"step {step} does not come", got=log.read_text() if log.exists() else "no output")
        time.sleep(0.005)


def _differences(found: Outcome, expected: Outcome) -> list[str]:
    names = [field.name for field in fields(Outcome) if field.name != "resumed_from"]
    return [name for name in names if getattr(found, name) != getattr(expected, name)]


def _seed(folder: Path, wanted: int | None) -> int:
    """The campaign's seed: the one that it began with, else the one wanted or drawn.

    Raises:
        TrainingError: it began with another one.
    """
    path = folder / "seed"
    if not path.exists():
        write_atomic(path, str(wanted if wanted is not None else random.SystemRandom().randrange(10**6)))
    seed = int(path.read_text())
    if wanted not in (None, seed):
        raise TrainingError("the campaign began with another seed", got=wanted, expected=seed, hint="leave --seed out")
    return seed


def summarise(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the kills."""
    counts = Counter((line["zero_stage"], line["ranks"]) for line in lines)
    return {
        "kills": len(lines),
        "different": [line["seed"] for line in lines if line["differs"]],
        "while_running": sum(kill["was_running"] for line in lines for kill in line["kills"]),
        "started_afresh": sum(line["resumed_from"] is None for line in lines),
        "by_combination": {f"ZeRO-{stage} x {ranks}": counts[stage, ranks] for stage, ranks in COMBINATIONS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kills that are left; 1 when any of all ended differently."""
    parser = argparse.ArgumentParser(prog="python -m training.campaign", description="Kill training, compare the end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    campaign = Campaign(folder / "work")
    record, seed = folder / "kills.jsonl", _seed(folder, options.seed)
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    for number in range(len(lines), options.kills):
        zero_stage, num_ranks = COMBINATIONS[number % len(COMBINATIONS)]
        line = {"kill": number} | campaign.trial(zero_stage, num_ranks, f"{seed}-{number}", must_resume=number % 2 == 0)
        lines.append(line)
        text = json.dumps(line) + "\n"
        with record.open("a") as file:
            file.write(text)
        sys.stdout.write(text)
        sys.stdout.flush()
    summary = summarise(lines)
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if summary["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
