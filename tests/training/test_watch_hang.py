"""A rank that hangs: every rank says who is waited for, shows its stacks and ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.training.conftest import Start
from training.watch_hang import EXIT_CODE, Beat, suspects

LIMIT_S = 4.0


def _wait_for_rows_that_never_come() -> None:
    threading.Event().wait()


def _loop(rank: int, port: int, log: Path, blocked_rank: int | None) -> None:
    """Ranks that train together; `blocked_rank` stops in the third step."""
    import torch
    import torch.distributed as dist

    from training.watch_hang import Watchdog, own_store

    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    with Watchdog(rank, 2, own_store(), LIMIT_S) as watchdog:
        step = 0
        while True:
            watchdog.at(step, "reading rows")
            if step == 3 and rank == blocked_rank:
                _wait_for_rows_that_never_come()
            watchdog.at(step, "training")
            dist.all_reduce(torch.ones(1))
            if step == 3:
                log.with_suffix(".running").touch()
            step += 1
            time.sleep(0.01)


def run(tmp_path: Path, *, blocked_rank: int | None = None, stopped_rank: int | None = None) -> list[tuple[int, str]]:
    """Exit code and stderr of the ranks that can end."""
    from training.environment import free_port

    port, logs = free_port(), [tmp_path / f"{rank}.log" for rank in range(2)]
    processes = [
        multiprocessing.get_context("forkserver").Process(target=_loop, args=(rank, port, log, blocked_rank))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    if stopped_rank is not None:
        running = logs[stopped_rank].with_suffix(".running")
        while processes[stopped_rank].is_alive() and not running.exists():
            processes[stopped_rank].join(0.02)
        os.kill(int(processes[stopped_rank].pid or 0), signal.SIGSTOP)
    for rank, process in enumerate(processes):
        if rank != stopped_rank:
            process.join(120)
    if stopped_rank is not None:
        processes[stopped_rank].kill()
        processes[stopped_rank].join()
    return [(int(process.exitcode or 0), log.read_text()) for process, log in zip(processes, logs, strict=True)]


def test_a_blocked_rank_is_named_and_its_stack_shown(start_training: Start, tmp_path: Path) -> None:
    ranks = run(tmp_path, blocked_rank=1)
    assert [code for code, _ in ranks] == [EXIT_CODE, EXIT_CODE], ranks
    assert "rank 0 of 2 hangs" in ranks[0][1] and "training of step 3" in ranks[0][1]
    assert "rank 1 is behind: on " in ranks[0][1] and "reading rows of step 3" in ranks[0][1]
    assert "_wait_for_rows_that_never_come" in ranks[1][1]
    assert "all_reduce" in ranks[0][1], "the stack of the rank that waits is not there"


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_process_is_named_by_the_other(stopped: int, start_training: Start, tmp_path: Path) -> None:
    """Rank 0 keeps the store by which the ranks tell each other where they are."""
    code, text = run(tmp_path, stopped_rank=stopped)[1 - stopped]
    assert code == EXIT_CODE, text
    assert f"rank {1 - stopped} of 2 hangs" in text and "all_reduce" in text
    assert ("rank 1 is silent" if stopped else "rank 0, which keeps the ranks' store, does not answer") in text


def test_who_is_waited_for() -> None:
    def beat(moves: int, told_at: float = 100.0) -> Beat:
        return Beat("host", 1, moves, moves // 2, "training", told_at)

    assert suspects({0: beat(9), 1: beat(9)}, 2, 100, 10) == [
        "no rank is behind: they wait for each other's messages (the network, or its library)"
    ]
    assert [line[:18] for line in suspects({0: beat(9), 1: beat(8), 2: beat(7)}, 3, 100, 10)] == [
        "rank 1 is behind: ",
        "rank 2 is behind: ",
    ]
    silent = suspects({0: beat(9), 1: beat(8, told_at=50)}, 3, 100, 10)
    assert [line[:16] for line in silent] == ["rank 1 is silent", "rank 2 is silent"] and "never" in silent[1]


def test_a_loop_that_moves_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    from training.watch_hang import Watchdog

    end = time.monotonic() + 1.0
    with Watchdog(0, 1, None, limit_s=0.5) as watchdog:
        step = 0
        while time.monotonic() < end:
            watchdog.at(step, "training")
            step += 1
            time.sleep(0.01)
    assert capfd.readouterr().err == "" and sys.exc_info() == (None, None, None)
