"""Restarting and reaping, in a process of its own, since the reaper takes every child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_SETUP = """
import json, os, sys, time
from pathlib import Path
from stacks.node.children import Children
from stacks.node.services import Service
from stacks.node.status import Status, StatusFile

folder = Path(sys.argv[1])
children = Children({"PATH": os.environ["PATH"]})
status = StatusFile(folder / "status.json")

def pump(until, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "timed out"
        children.reap()
        time.sleep(0.01)
"""


def run(code: str, folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _SETUP + code, str(folder)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_program_that_ends_is_started_again_with_growing_delay(tmp_path: Path) -> None:
    code = """
service = Service("tool", lambda: ["sh", "-c", "date +%s.%N; exit 3"], lambda: True, children, status, folder)
service.start()
log = folder / "tool.log"
pump(lambda: log.exists() and len(log.read_text().split()) == 4)
service.stop()
times = [float(text) for text in log.read_text().split()]
said = Status.read(folder / "status.json").services["tool"]
print(json.dumps({"gaps": [b - a for a, b in zip(times, times[1:])], "problem": said.problem}))
"""
    said = run(code, tmp_path)
    gaps = said["gaps"]
    assert isinstance(gaps, list)
    assert gaps[0] < gaps[1] < gaps[2]
    assert "ended with 3" in str(said["problem"])


def test_program_that_cannot_be_started_is_said_and_tried_again(tmp_path: Path) -> None:
    code = """
(folder / "later").mkdir()
service = Service("tool", lambda: [str(folder / "later" / "tool")], lambda: True, children, status, folder)
service.start()
pump(lambda: "cannot be started" in Status.read(folder / "status.json").services["tool"].problem
     if (folder / "status.json").exists() else False)
(folder / "later" / "tool").write_text("#!/bin/sh\\nsleep 60\\n")
(folder / "later" / "tool").chmod(0o755)
pump(lambda: Status.read(folder / "status.json").services["tool"].up)
service.stop()
os.kill(Status.read(folder / "status.json").services["tool"].pid, 9)
print(json.dumps({}))
"""
    run(code, tmp_path)


def test_failed_command_carries_the_end_of_its_log(tmp_path: Path) -> None:
    code = """
import threading
from sovereign.errors import NodeError
said = {}
def work():
    try:
        children.run(["sh", "-c", "echo the reason >&2; exit 1"], folder / "log")
    except NodeError as error:
        said["error"] = str(error)
thread = threading.Thread(target=work)
thread.start()
pump(lambda: not thread.is_alive())
print(json.dumps(said))
"""
    assert "the reason" in str(run(code, tmp_path)["error"])
