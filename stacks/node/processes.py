"""Finding the supervisors of embedded nodes among this machine's processes, and ending one. Standard library only."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sovereign
import stacks
from sovereign.errors import NodeError
from stacks.node.spec import NodeSpec

MODULE = "stacks.node.supervisor"
_STOP_S, _KILL_S = 20.0, 15.0


@dataclass(frozen=True)
class Supervisor:
    """A running PID 1 of an embedded node."""

    pid: int
    """As this machine sees it."""
    state_dir: Path


def supervisors() -> list[Supervisor]:
    """All that run on this machine; the kernel is asked each time, so that no pid file can lie."""
    found = []
    for pid, command in _commands():
        if len(command) > 2 and command[-2] == MODULE and _is_namespace_init(pid):
            found.append(Supervisor(pid, Path(command[-1]).parent))
    return found


def find(state_dir: Path) -> Supervisor | None:
    """The supervisor of the node in this folder."""
    return next((each for each in supervisors() if each.state_dir == state_dir), None)


def command(spec: NodeSpec) -> list[str]:
    """The command that makes the namespaces and runs the supervisor in them; either ends with the other."""
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    return ["unshare", *namespaces, sys.executable, "-S", "-m", MODULE, str(spec.node_json)]


def environment() -> dict[str, str]:
    """For `command`: with -S, Python reads no site-packages and starts at once, so the packages are named here."""
    folders = dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in (stacks, sovereign))
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": os.pathsep.join(folders),
        "LANG": "C",
    }


def spawn(spec: NodeSpec, log: Path) -> None:
    """Start `command` as a daemon of its own.

    Raises:
        NodeError: util-linux is missing.
    """
    with log.open("wb") as stream:
        try:
            subprocess.run(
                ["setsid", "--fork", *command(spec)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd="/",
                env=environment(),
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise NodeError(
                "The node's supervisor cannot be started.", got=str(error), hint="install the package util-linux"
            ) from error


def end(supervisor: Supervisor, *, gracefully: bool) -> None:
    """End a supervisor, and with it every process of its node; gracefully: pods get a moment to end by themselves.

    Raises:
        NodeError: it is still there after a SIGKILL, as a process hangs in the kernel.
    """
    try:
        handle = os.pidfd_open(supervisor.pid)
    except ProcessLookupError:
        return
    try:
        if find(supervisor.state_dir) != supervisor:
            return  # it ended, and the PID may be another's by now
        for number, timeout_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _KILL_S)):
            if number == signal.SIGTERM and not gracefully:
                continue
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], timeout_s)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    raise NodeError(
        f"The node's processes do not end after SIGKILL (supervisor: PID {supervisor.pid}).",
        hint="a process hangs in the kernel, often on a dead network file system; see `ps -eo pid,stat,wchan:30,args`",
    )


def reload(supervisor: Supervisor) -> None:
    """Tell it to read node.json again."""
    os.kill(supervisor.pid, signal.SIGHUP)


def foreign_kubelets() -> set[int]:
    """PIDs of kubelets on this machine that are no embedded node's."""
    ours = {_pid_namespace(each.pid) for each in supervisors()}
    kubelets = (pid for pid, command_line in _commands() if Path(command_line[0]).name == "kubelet")
    return {pid for pid in kubelets if _pid_namespace(pid) not in ours}


def _commands() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text:
                yield int(entry.name), text.rstrip("\0").split("\0")


def _is_namespace_init(pid: int) -> bool:
    try:
        status = Path("/proc", str(pid), "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    pids = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(pids) > 1 and pids[-1] == "1"


def _pid_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
