"""PID 1 of the embedded node: sets the node up, starts, watches and restarts its programs, and reaps orphans.

    unshare --net --mount --pid --fork --kill-child --mount-proc python -S -m stacks.node.supervisor STATE_DIR/node.json

`stacks.node.lifecycle` starts it. SIGHUP: read node.json again and take in changed binds and images. SIGTERM: end every
program, then itself. Its end, however it comes, ends all: the kernel kills the rest of the PID namespace; mounts, links
and nftables rules go with their namespaces. Standard library and this kit's own light modules only.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from sovereign.errors import NodeError
from stacks.node import config, inside
from stacks.node.bootstrap import Bootstrap
from stacks.node.children import Children
from stacks.node.services import Service, answers_http, answers_socket
from stacks.node.spec import NodeSpec
from stacks.node.status import StatusFile

_GRACE_S = 10.0
"""Time that programs get to end on SIGTERM."""
_KUBEADM_FLAGS = Path("/var/lib/kubelet/kubeadm-flags.env")


class Supervisor:
    """Brings the node up in a thread of its own, while the main thread reaps and listens to signals."""

    def __init__(self, spec: NodeSpec, status: StatusFile) -> None:
        self.spec = spec
        self._status = status
        self._children = Children({"PATH": config.SYSTEM_PATH, "HOME": "/run/tmp", "TMPDIR": "/run/tmp", "LANG": "C"})
        machine = inside.inspect(spec)
        config.write_all(spec, machine)
        self._bootstrap = Bootstrap(machine, self._children, status)
        self._signals: list[int] = []
        self._exit_code: int | None = None
        self._one_at_a_time = threading.Lock()
        self._containerd = self._service(
            "containerd",
            lambda: ["--config", str(spec.config_dir / "containerd.toml")],
            lambda: answers_socket(config.CONTAINERD_SOCKET),
        )
        self._kubelet = self._service("kubelet", _kubelet_arguments, lambda: answers_http(10248, "/healthz"))
        self._kube_proxy = self._service(
            "kube-proxy",
            lambda: ["--config", str(spec.config_dir / "kube-proxy.yaml")],
            lambda: answers_http(10256, "/livez"),
        )

    def _service(self, name: str, arguments: Callable[[], list[str]], probe: Callable[[], bool]) -> Service:
        def command() -> list[str]:
            return [str(self.spec.binaries[name]), *arguments()]

        return Service(name, command, probe, self._children, self._status, self.spec.log_dir)

    # --- main thread -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Returns the exit code, after SIGTERM or a failure to come up."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        self._in_background(self._bring_up)
        while self._exit_code is None:
            if select.select([reader], [], [], 1.0)[0]:
                os.read(reader, 512)
            self._children.reap()
            while self._signals:
                self._in_background(self._reload if self._signals.pop() == signal.SIGHUP else self._shut_down)
        return self._exit_code

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _in_background(self, task: Callable[[], None]) -> None:
        threading.Thread(target=task, name=task.__name__, daemon=True).start()

    # --- other threads ---------------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        with self._one_at_a_time:
            try:
                self._start_all()
            except (NodeError, OSError) as error:
                self._status.failed(str(error))
                self._exit_code = 1

    def _start_all(self) -> None:
        self._status.step("starting containerd")
        self._containerd.start()
        if not self._containerd.wait_up(30.0):
            raise NodeError("containerd did not come up.", hint=f"see {self.spec.log_dir / 'containerd.log'}")
        prepared = self._bootstrap.prepare(self.spec)
        self._bootstrap.import_images(self.spec)
        self._status.step("starting the control plane")
        while not (config.KUBELET_CONFIG.exists() and config.KUBELET_KUBECONFIG.exists()):
            if prepared.done():
                prepared.result()
            time.sleep(0.05)
        self._kubelet.start()
        self._bootstrap.hand_out_kubeconfigs(self.spec)
        self._kube_proxy.start()
        prepared.result()
        self._status.done(self.spec.digest)

    def _reload(self) -> None:
        with self._one_at_a_time:
            try:
                fresh = NodeSpec.load(self.spec.state_dir)
                if fresh is None:
                    raise NodeError(f"{self.spec.node_json} is gone.")
                self.spec = fresh
                inside.bind_host_folders(fresh)
                self._bootstrap.import_images(fresh)
                self._status.done(fresh.digest)
            except (NodeError, OSError) as error:
                self._status.failed(str(error))

    def _shut_down(self) -> None:
        self._status.step("stopping")
        for service in (self._kubelet, self._kube_proxy, self._containerd):
            service.stop()
        os.kill(-1, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and _others_running():
            time.sleep(0.1)
        self._exit_code = 0


def _kubelet_arguments() -> list[str]:
    assignment = shlex.split(_KUBEADM_FLAGS.read_text())[0]
    return [
        *("--config", str(config.KUBELET_CONFIG), "--kubeconfig", str(config.KUBELET_KUBECONFIG)),
        *shlex.split(assignment.partition("=")[2]),
    ]


def _others_running() -> bool:
    """Whether a program that may have something to finish still runs in the node; containerd and its shims have not."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            try:
                if not (entry / "comm").read_text().startswith("containerd"):
                    return True
            except (FileNotFoundError, ProcessLookupError):
                continue
    return False


def main(arguments: list[str]) -> int:
    """Run the node that a node.json describes until it is told to end.

    Raises:
        NodeError: not started as PID 1 of a PID namespace, or there is no node.json.
    """
    spec = NodeSpec.load(Path(arguments[0]).parent)
    if spec is None or os.getpid() != 1:
        raise NodeError("The supervisor must be PID 1 of a node's namespaces.", hint="use stacks.node.lifecycle.ensure")
    # Not those of the command that happened to start it.
    os.umask(0o022)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    status = StatusFile(spec.status_json)
    try:
        inside.isolate(spec)
        supervisor = Supervisor(spec, status)
    except NodeError as error:
        status.failed(str(error))
        return 1
    return supervisor.run()


if __name__ == "__main__":
    # Not sys.exit: threads that wait on programs must not keep the node alive.
    os._exit(main(sys.argv[1:]))
