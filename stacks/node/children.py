"""Child processes of a PID 1: started from any thread, reaped by one, orphans of others included."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from sovereign.errors import NodeError


class Child:
    """A started program; `returncode` is set, and `wait` returns, once `Children.reap` has seen its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = threading.Event()
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended within the time."""
        return self._ended.wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def end(self, returncode: int) -> None:
        self.returncode = self._process.returncode = returncode
        self._ended.set()


class Children:
    """Starts programs and reaps whatever ends. The lock keeps the reaper away while a child is not yet known."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._known: dict[int, Child] = {}

    def spawn(self, command: Sequence[str], log: Path, *, pipe: bool = False, output: Path | None = None) -> Child:
        """Start a program; its output is appended to `log`, or its standard output replaces the file `output`.

        Raises:
            OSError: it cannot be started.
        """
        with log.open("ab") as log_stream, self._lock:
            output_stream = log_stream if output is None else output.open("wb")
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                    stdout=output_stream,
                    stderr=log_stream,
                    env=self._environment,
                    cwd="/",
                )
            finally:
                if output is not None:
                    output_stream.close()
            child = Child(process)
            self._known[process.pid] = child
        return child

    def run(self, command: Sequence[str], log: Path, *, output: Path | None = None, timeout_s: float = 300.0) -> None:
        """Run a program to its end.

        Raises:
            NodeError: it failed or took too long; carries the end of its log.
        """
        child = self.spawn(command, log, output=output)
        if not child.wait(timeout_s):
            child.signal(signal.SIGKILL)
            raise NodeError(f"`{Path(command[0]).name}` took longer than {timeout_s:.0f} s.", got=tail(log))
        if child.returncode != 0:
            raise NodeError(
                f"`{Path(command[0]).name} {command[1]}` failed.", got=tail(log), hint=f"the whole log is {log}"
            )

    def reap(self) -> None:
        """Take note of every child that has ended; to be called by one thread only, after each SIGCHLD."""
        while True:
            with self._lock:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if pid == 0:
                    return
                child = self._known.pop(pid, None)
                if child is not None:
                    child.end(os.waitstatus_to_exitcode(status))


def tail(log: Path, num_lines: int = 12) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:])
    except FileNotFoundError:
        return "(no log)"
