"""Preflight's work of several ranks: the kit's engine at every ZeRO stage, in processes that meet like a run's."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sovereign.errors import TrainingError
from sovereign.plan import Plan
from training.environment import RENDEZVOUS, Ranks, free_port
from training.preflight_plan import make_rows, shrunk

_LIMIT_S = 600.0

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One way to train."""

    zero_stage: int
    overlap_comm: bool = False
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"zero{self.zero_stage}-{self.precision}" + ("-overlap" if self.overlap_comm else "")


@dataclass(frozen=True)
class Trace:
    """What a few steps gave."""

    losses: list[float]
    gradient_norms: list[float]
    """NaN at stage 0, where DeepSpeed does not tell."""
    first: Weights
    """The weights after the first step."""
    last: Weights
    """And after the last."""


def train_cases(plan: Plan, cases: Sequence[Case], world_size: int, folder: Path, *, on_gpus: bool) -> list[Trace]:
    """Train each case on `world_size` new processes.

    Raises:
        TrainingError: one of them failed.
    """
    # A fork of a process that has used CUDA does not work; on CPU the ranks share one import of DeepSpeed.
    multiprocessing.set_forkserver_preload(["training.session"])
    context = multiprocessing.get_context("spawn") if on_gpus else multiprocessing.get_context("forkserver")
    port = str(free_port())
    processes: list[BaseProcess] = []
    for rank in range(world_size):
        values = (str(rank), str(world_size), str(rank if on_gpus else 0), "127.0.0.1", port)
        environment = dict(os.environ) | dict(zip(RENDEZVOUS, values, strict=True))
        arguments = (plan, cases, environment, folder)
        process: BaseProcess = context.Process(target=_train_rank, args=arguments, daemon=True)
        process.start()
        processes.append(process)
    try:
        _await(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [_load(folder / case.name) for case in cases]


def _await(processes: Sequence[BaseProcess]) -> None:
    left = list(processes)
    while left:
        ended = wait([process.sentinel for process in left], _LIMIT_S)
        failed = [process for process in left if process.sentinel in ended and process.exitcode != 0]
        if failed or not ended:
            codes = [process.exitcode for process in processes]
            raise TrainingError(
                "preflight's training processes failed" if failed else f"they did not end within {_LIMIT_S:.0f} s",
                got=f"exit codes {codes}",
                hint="what they wrote is in the log before this",
            )
        left = [process for process in left if process.sentinel not in ended]


def _load(path: Path) -> Trace:
    numbers = json.loads(path.with_suffix(".json").read_text())
    weights = [load_file(path.with_suffix(f".{name}.safetensors")) for name in ("first", "last")]
    return Trace(numbers["losses"], numbers["gradient_norms"], *weights)


def _train_rank(plan: Plan, cases: Sequence[Case], environment: Mapping[str, str], folder: Path) -> None:
    os.environ.update(environment)
    from training.engine import join

    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    join(Ranks(rank, world_size, int(environment["LOCAL_RANK"])))
    for case in cases:
        _train(plan, case, rank, world_size, folder / case.name)
        gc.collect()  # an engine refers to itself


def _train(plan: Plan, case: Case, rank: int, world_size: int, path: Path) -> None:
    from training.deepspeed_config import render
    from training.engine import Engine

    own = shrunk(plan, zero_stage=case.zero_stage, world_size=world_size, precision=case.precision)
    config = render(own)
    config["zero_optimization"]["overlap_comm"] = case.overlap_comm
    engine = Engine(own, sys.stderr.write, config=config)
    results = []
    for step, rows in enumerate(make_rows(own)):
        results.append(engine.step(step, rows.reshape(world_size, -1, rows.shape[-1])[rank]))
        if step in (0, len(make_rows(own)) - 1):
            weights = engine.weights()
            if rank == 0:
                save_file(weights, path.with_suffix(f".{'last' if step else 'first'}.safetensors"))
    engine.state()  # a checkpoint needs it, and each ZeRO optimizer keeps it elsewhere
    numbers = {
        "losses": [result.loss for result in results],
        "gradient_norms": [result.gradient_norm for result in results],
    }
    if rank == 0:
        path.with_suffix(".json").write_text(json.dumps(numbers))
