"""The process environment that torch, DeepSpeed and MLflow find when they are imported: call `prepare` before.

Nothing here imports torch. A pod has a read-only root file system and a user without a name or a home, and must not
look for the internet, for MPI or for a compiler cache in places that it cannot write to.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.errors import PeerLostError, TrainingError

RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What DeepSpeed needs, or else it imports mpi4py (deepspeedai/DeepSpeed#8444)."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}

_NAME_WAIT_S = 300.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        """Rank 0 reports, stores and keeps the run's record."""
        return self.rank == 0


def prepare(workdir: Path, *, threads: int, world_size: int) -> Ranks:
    """Set what is missing in the environment.

    Args:
        workdir: a folder that can be written to, for caches.
        threads: compute threads of a process on CPU; 0 with GPUs, and where torch is not used.
        world_size: processes that train together by the plan.

    Raises:
        TrainingError: the environment's WORLD_SIZE is not `world_size`.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        # Threads that spin for long starve each other on a busy machine; without any spinning each of a step's
        # many parallel loops wakes the other thread through the kernel, a tenth of the time.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _keep_freed_memory()
    _give_a_home(workdir)
    given = [name for name in RENDEZVOUS if name in os.environ]
    if given and len(given) < len(RENDEZVOUS):
        raise TrainingError(
            "the rendezvous variables are incomplete",
            got=", ".join(given),
            expected=f"all of {', '.join(RENDEZVOUS)}, or none for a process alone",
        )
    ranks = Ranks(*(int(os.environ[name]) for name in RENDEZVOUS[:3])) if given else Ranks(0, 1, 0)
    if ranks.world_size != world_size:
        raise TrainingError(
            "the number of training processes is not the plan's",
            got=f"WORLD_SIZE={ranks.world_size}",
            expected=f"{world_size}",
            hint="start one process for each of training.pods (or GPU), or change the profile",
        )
    return ranks


def set_rendezvous() -> None:
    """Complete what the ranks need to meet: all variables where this process is alone, else gloo's interface.

    Raises:
        PeerLostError: rank 0's address cannot be found.
    """
    if "RANK" not in os.environ:
        os.environ.update(zip(RENDEZVOUS, ("0", "1", "0", "127.0.0.1", str(free_port())), strict=True))
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        is_alone = os.environ["WORLD_SIZE"] == "1"
        os.environ["GLOO_SOCKET_IFNAME"] = "lo" if is_alone else _interface_towards(os.environ["MASTER_ADDR"])


@contextmanager
def among_peers() -> Iterator[None]:
    """Around what the ranks do together: tells the loss of another rank from an error of this one.

    Raises:
        PeerLostError: another rank is gone, and a message to or from it failed.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        if not isinstance(error, DistError) and "/gloo/" not in str(error):  # gloo raises plain ones, with its file
            raise
        raise PeerLostError(
            f"another rank is gone: {str(error).splitlines()[0]}", hint="its own output says why, unless it was killed"
        ) from error


def import_without(name: str, unwanted: str) -> Any:
    """Import the module `name`, which can do without `unwanted` and finds it missing meanwhile."""
    if unwanted in sys.modules:
        return importlib.import_module(name)
    sys.modules[unwanted] = None  # type: ignore[assignment]  # the import system's own way to say "not there"
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[unwanted]


def _keep_freed_memory() -> None:
    """Let the C library's allocator keep blocks of up to 1 GiB for the next step.

    It would give each large one back to the kernel, which clears the pages again for the next: 3,000 page faults in a
    step of 5 million parameters. Other C libraries than glibc have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _give_a_home(workdir: Path) -> None:
    """A user without an entry in passwd has no name and no home; caches must lie where it can write."""
    cache = workdir / "cache"
    home = Path(os.environ.get("HOME", "/nonexistent"))
    if not os.access(home, os.W_OK):
        home = cache / "home"
        home.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(home)
    for name in ("USER", "LOGNAME"):
        os.environ.setdefault(name, "sovereign")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _interface_towards(host: str) -> str:
    """Name of the network interface by which `host` is reached: gloo's own choice needs a hostname that resolves.

    Waits for the name of rank 0's pod, which appears in DNS only when that pod runs.
    """
    import psutil  # type: ignore[import-untyped]

    deadline = time.monotonic() + _NAME_WAIT_S
    while True:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            break
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"the address of rank 0 cannot be found: {error}",
                    got=f"MASTER_ADDR={host}",
                    hint="does its pod run, and does the Job's headless Service exist?",
                ) from error
            time.sleep(1.0)
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # a datagram socket: chooses the route, sends nothing
        own = probe.getsockname()[0]
    for interface, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == own for entry in addresses):
            return str(interface)
    raise TrainingError("no network interface has the address that leads to rank 0", got=own)
