"""One long-running program of the node: started, probed, restarted with backoff, its log kept in bounds."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stacks.node.children import Children
from stacks.node.status import ServiceStatus, StatusFile

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 10.0
_STEADY_S = 30.0
"""A program that ran this long starts again without delay."""
_PROBE_EVERY_S = 5.0
_NUM_FAILED_PROBES = 12
"""A program that answers no probe for a minute is killed, and so restarted."""
_LOG_BYTES = 64 << 20


class Service:
    """Runs a program for as long as the supervisor lives."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        probe: Callable[[], bool],
        children: Children,
        status: StatusFile,
        log_dir: Path,
    ) -> None:
        self.name = name
        self._command, self._probe = command, probe
        self._children, self._status = children, status
        self._log = log_dir / f"{name}.log"
        self._stopping = threading.Event()
        self._pid = 0
        self._num_restarts = 0

    def start(self) -> None:
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def stop(self) -> None:
        """Do not restart it any more."""
        self._stopping.set()

    def wait_up(self, timeout_s: float) -> bool:
        """Whether it answers its probe within the time."""
        deadline = time.monotonic() + timeout_s
        while not self._probe():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _run(self) -> None:
        delay_s = _FIRST_DELAY_S
        problem = ""
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                problem = self._run_once(problem)
            except OSError as error:
                problem = f"cannot be started: {error}"
            if time.monotonic() - started > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            self._report(up=False, problem=problem)
            if self._stopping.wait(delay_s):
                return
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            self._num_restarts += 1

    def _run_once(self, last_problem: str) -> str:
        """Run the program to its end, and say why it ended."""
        child = self._children.spawn(self._command(), self._log)
        self._pid = child.pid
        self._report(up=True, problem=last_problem)
        num_failed = 0
        while not child.wait(_PROBE_EVERY_S):
            self._bound_log()
            num_failed = 0 if self._probe() else num_failed + 1
            if num_failed == _NUM_FAILED_PROBES:
                child.signal(signal.SIGKILL)
        if num_failed >= _NUM_FAILED_PROBES:
            return "did not answer for a minute"
        return f"ended with {child.returncode}, see {self._log}"

    def _report(self, *, up: bool, problem: str) -> None:
        self._status.service(self.name, ServiceStatus(up, self._pid if up else 0, self._num_restarts, problem))

    def _bound_log(self) -> None:
        if self._log.stat().st_size > _LOG_BYTES:
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            with self._log.open("r+b") as stream:  # the program appends, so that it goes on at the start
                stream.truncate(0)


def answers_http(port: int, path: str, *, timeout_s: float = 3.0) -> bool:
    """Whether 127.0.0.1 answers with status 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers_socket(path: Path, *, timeout_s: float = 3.0) -> bool:
    """Whether something accepts connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
