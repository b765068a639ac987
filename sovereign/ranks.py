"""Starts the ranks of a stage that share their work through the store, on this machine; all end when one fails.

    python -m sovereign.ranks N STAGE ARGUMENTS

STAGE ARGUMENTS are those of `python -m sovereign.stages`. The exit code is that of the rank that failed first (128 and
the signal's number where one ended it), or 0. Stages that need a rendezvous are started by training/launch.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

_POLL_S = 0.1
_GRACE_S = 30
"""How long ranks have to end after SIGTERM, seconds."""


def run_ranks(num_ranks: int, command: Sequence[str]) -> int:
    """Run `command` once for each rank, with RANK and WORLD_SIZE in the environment; the exit code."""
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(num_ranks):
            environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            ranks.append(subprocess.Popen(command, env=environment))
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            time.sleep(_POLL_S)
            codes = [rank.poll() for rank in ranks]
        for number, code in enumerate(codes):
            if code:
                sys.stderr.write(f"rank {number} of {num_ranks} ended with exit code {code}\n")
                return code if code > 0 else 128 - code
        return 0
    finally:
        _stop(ranks)


def _stop(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        rank.terminate()
    deadline = time.monotonic() + _GRACE_S
    for rank in ranks:
        try:
            rank.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The launcher's process."""
    num_ranks, *stage = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _end)
    return run_ranks(int(num_ranks), [sys.executable, "-m", "sovereign.stages", *stage])


if __name__ == "__main__":
    sys.exit(main())
