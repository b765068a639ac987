"""What the supervisor says of itself in status.json: written by it alone, read by `stacks.node.lifecycle`."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sovereign.files import write_atomic

STARTING, RUNNING, FAILED = "starting", "running", "failed"


@dataclass
class ServiceStatus:
    up: bool = False
    pid: int = 0
    """As seen inside the node."""
    num_restarts: int = 0
    problem: str = ""
    """Why it is not up, or why it was last restarted."""


@dataclass
class Status:
    phase: str = STARTING
    step: str = ""
    """What is being done, for a person."""
    error: str = ""
    spec_digest: str = ""
    """`NodeSpec.digest` of what has been taken in."""
    num_reloads: int = 0
    """Answers to SIGHUP that are done, well or with an `error`."""
    started_at: float = 0.0
    """Of the supervisor, Unix time in seconds."""
    services: dict[str, ServiceStatus] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Status | None:
        """None where there is no file."""
        try:
            record = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):  # not there, or damaged by a power cut: the supervisor writes another
            return None
        services = {name: ServiceStatus(**service) for name, service in record.pop("services").items()}
        return cls(**record, services=services)


class StatusFile:
    """The supervisor's own status, written to its file at each change; safe to use from several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._status = Status(started_at=time.time())
        self._lock = threading.Lock()

    @property
    def phase(self) -> str:
        return self._status.phase

    def step(self, text: str) -> None:
        """Say what is being done."""
        with self._lock:
            self._status.step = text
            self._write()

    def done(self, spec_digest: str) -> None:
        """The spec has been taken in, at the start or by a reload."""
        with self._lock:
            self._status.num_reloads += self._status.phase == RUNNING
            self._status.phase, self._status.step, self._status.error = RUNNING, "running", ""
            self._status.spec_digest = spec_digest
            self._write()

    def failed(self, error: str) -> None:
        """A start has failed for good; a failed reload leaves the node running as it was."""
        with self._lock:
            if self._status.phase == RUNNING:
                self._status.num_reloads += 1
            else:
                self._status.phase = FAILED
            self._status.error = error
            self._write()

    def service(self, name: str, service: ServiceStatus) -> None:
        with self._lock:
            self._status.services[name] = service
            self._write()

    def _write(self) -> None:
        write_atomic(self._file, json.dumps(asdict(self._status), indent=1))
