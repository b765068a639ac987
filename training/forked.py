"""Stage `train` of a tiny model in processes forked from one that has imported torch: a run costs its steps only.

For what must run training many times: the campaign of kills and the tests.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sovereign.errors import SovereignError
from sovereign.files import write_atomic
from sovereign.profile import load_profile
from sovereign.stages import load_stage, run_stage
from sovereign.store import open_store
from training.environment import free_port

NUM_STEPS = 12
TINY: dict[str, Any] = {
    "apiVersion": "sovereign/v1",
    "name": "tiny",
    "hardware": {"cpus_per_node": 8, "memory_gb_per_node": 64},
    "corpus": {"demonstration": {"facts": 10}, "cleaning": {"heldout_fraction": 0.1}},
    "model": {"parameters": 1e5, "vocab_size": 600, "sequence_length": 64},
    "training": {
        "tokens": NUM_STEPS * 256,
        "batch_tokens": 256,
        "learning_rate": 4e-3,
        "checkpoint_every_steps": 3,
        "threads_per_pod": 1,
        "compile": False,
    },
}
"""Steps of 4 sequences; a checkpoint after each third."""
_TIMEOUT_S = 240.0


def fork(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Start `target` in a process that has torch."""
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # before the server of forks imports torch
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.forked_imports"])
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def start_rank(
    profile: Path, store_root: Path, workdir: Path, log: Path, environment: Mapping[str, str]
) -> ForkServerProcess:
    """Start stage `train` with the store in a folder; progress and errors go to `log` as JSON lines."""
    return fork(run_rank, profile, store_root, workdir, log, environment)


def run_rank(profile: Path, store_root: Path, workdir: Path, log: Path, environment: Mapping[str, str]) -> None:
    """Stage `train` in this process, as `start_rank` starts it."""
    os.environ.update(environment)
    with log.open("a", buffering=1) as stream:
        try:
            run_stage(load_stage("train"), load_profile(profile), open_store(f"file://{store_root}"), workdir, stream)
        except SovereignError as error:
            stream.write(json.dumps({"message": str(error), "done": None}) + "\n")
            sys.exit(error.exit_code)


def start_ranks(profile: Path, store_root: Path, workdir: Path, log: Path, num_ranks: int) -> list[ForkServerProcess]:
    """Start the ranks of one training on this machine; rank 0 writes `log`."""
    if num_ranks == 1:
        return [start_rank(profile, store_root, workdir, log, {})]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = [{"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": "0"} for rank in range(num_ranks)]
    logs = [log, *(log.with_suffix(f".{rank}.log") for rank in range(1, num_ranks))]
    return [
        start_rank(profile, store_root, workdir, each, meeting | rank) for rank, each in zip(own, logs, strict=True)
    ]


def finish(processes: Sequence[ForkServerProcess], timeout_s: float = _TIMEOUT_S) -> list[int | None]:
    """Exit codes at the end; whoever does not end in time is killed (-9)."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def prepare_lake(profile: Path, root: Path, work: Path) -> Path:
    """The folder store `root` with the stages before training done; made once."""
    store = open_store(f"file://{root}")
    for name in ("corpus", "curate", "tokenize"):
        run_stage(load_stage(name), load_profile(profile), store, work / name, io.StringIO())
    return root


def write_profile(path: Path, **training: Any) -> Path:
    """The tiny profile with these keys of `training`."""
    write_atomic(path, json.dumps(TINY | {"training": TINY["training"] | training}))
    return path
