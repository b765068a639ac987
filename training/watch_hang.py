"""A rank that hangs ends itself, after saying who waits for whom, so that its Job starts again from a checkpoint.

Every rank tells the others through the process group's store how far its training loop is. When a loop has not moved
for `LIMIT_S`, its thread names the ranks that are behind or that have fallen silent, writes the stacks of all threads
to stderr and ends the process with `EXIT_CODE`. A process that is stopped as a whole (SIGSTOP, a dead machine) cannot
end itself: the others name it and end.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, Self

import torch.distributed as dist

LIMIT_S = 540.0
"""Below the process group's own time-out of 600 s, whose error would not say which rank it waited for."""
EXIT_CODE = 124
"""As of timeout(1); the Job's pod failure policy starts such a pod again."""
_LOOK_EVERY_S = 10.0
_ANSWER_S = 10.0


class Store(Protocol):
    """The part of torch.distributed's Store that is used here."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


@dataclass
class Beat:
    """What a rank last told."""

    host: str
    pid: int
    moves: int = 0
    """How often its loop has moved; all ranks' loops make the same moves."""
    step: int = 0
    doing: str = "starting"
    told_at: float = 0.0
    """Seconds since 1970."""

    def __str__(self) -> str:
        return f"on {self.host} (process {self.pid}), {self.doing} of step {self.step}"


class Watchdog:
    """Watches the training loop of one rank from a thread; a context manager."""

    def __init__(self, rank: int, world_size: int, store: Store | None, limit_s: float = LIMIT_S) -> None:
        """Args: `store` is a connection of the watchdog's own to the process group's store; None for one rank alone."""
        self._rank, self._world_size, self._store, self._limit_s = rank, world_size, store, limit_s
        self._look_every_s = min(_LOOK_EVERY_S, limit_s / 5)
        self._own = Beat(socket.gethostname(), os.getpid())
        self._beats: dict[int, Beat] = {}
        self._moved_at = time.monotonic()
        self._closing, self._asked, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if store is not None:  # a thread of its own: where the store does not answer, it waits without end
            self._threads.append(threading.Thread(target=self._talk, name="watchdog-store", daemon=True))

    def at(self, step: int, doing: str) -> None:
        """The loop begins something, in the same order on every rank; costs nothing."""
        self._own.step, self._own.doing = step, doing
        self._own.moves += 1
        self._moved_at = time.monotonic()

    def __enter__(self) -> Self:
        self._moved_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._threads[0].join()

    def _watch(self) -> None:
        while not self._closing.wait(self._look_every_s):
            still_s = time.monotonic() - self._moved_at
            if still_s > self._limit_s:
                self._report(still_s)
                os._exit(EXIT_CODE)

    def _report(self, still_s: float) -> None:
        lines = [f"rank {self._rank} of {self._world_size} hangs for {still_s:.0f} s: {self._own}"]
        if self._store is not None:
            self._asked.set()
            if self._answered.wait(_ANSWER_S):
                lines += suspects(self._beats, self._world_size, time.time(), 3 * self._look_every_s)
            else:
                lines.append("rank 0, which keeps the ranks' store, does not answer: it is stopped, or not reached")
        sys.stderr.write("".join(f"watchdog: {line}\n" for line in lines))
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)

    def _talk(self) -> None:
        assert self._store is not None
        try:
            while not self._closing.is_set():
                is_asked = self._asked.wait(self._look_every_s)
                self._own.told_at = time.time()
                self._store.set(_key(self._rank), json.dumps(asdict(self._own)))
                if is_asked:
                    ranks = [rank for rank in range(self._world_size) if self._store.check([_key(rank)])]
                    self._beats = {rank: Beat(**json.loads(self._store.get(_key(rank)))) for rank in ranks}
                    self._answered.set()
                    return
        except RuntimeError:  # the store is gone, with rank 0; the report says that it does not answer
            return


def suspects(beats: Mapping[int, Beat], world_size: int, now: float, silent_s: float) -> list[str]:
    """Sentences about the ranks that the others wait for: those that fell silent, else those that are behind."""
    silent = [rank for rank in range(world_size) if rank not in beats or now - beats[rank].told_at > silent_s]
    if silent:
        return [
            f"rank {rank} is silent, its process or machine is stopped: last seen {beats.get(rank, 'never')}"
            for rank in silent
        ]
    furthest = max(beat.moves for beat in beats.values())
    behind = [f"rank {rank} is behind: {beat}" for rank, beat in sorted(beats.items()) if beat.moves < furthest]
    return behind or ["no rank is behind: they wait for each other's messages (the network, or its library)"]


def own_store() -> Store | None:
    """A new connection to the store by which the ranks met; None where this rank is alone."""
    if dist.get_world_size() == 1:
        return None
    # The only way to it: https://github.com/pytorch/pytorch/blob/main/torch/distributed/distributed_c10d.py
    store: Store = dist.distributed_c10d._get_default_store().clone()
    return store


def _key(rank: int) -> str:
    return f"watchdog/{rank}"
