"""A served model as in its pod: the engine and the front as processes, of a model that knows three answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign.files import sha256_file
from sovereign.serving.client import ServingError, generate_one_token
from sovereign.serving.fetch import fetch_model, model_digest
from sovereign.store import open_store

MODEL = "sovereign/tiny"
START_S = 240.0


@dataclass(frozen=True)
class Served:
    """Addresses, and what is served."""

    url: str
    engine_url: str
    folder: Path
    """As the pod has fetched it."""
    engine: subprocess.Popen[bytes]


@contextmanager
def serve(source: Path, root: Path, kind: str = "llama.cpp") -> Iterator[Served]:
    """Serve the model's folder `source`, fetched by its digest into `root`."""
    prefix = "models/tiny/register/1/"
    store = open_store(f"file://{root}/store")
    for path in source.iterdir():
        store.put_file(prefix + path.name, path)
    digest = model_digest({path.name: sha256_file(path) for path in source.iterdir()})
    folder = fetch_model(store, prefix, digest, root / "home")
    port, engine_port = free_port(), free_port()
    if kind == "llama.cpp":
        engine = ["sovereign.serving", "engine", "--model", str(folder / "model.gguf"), "--context", "128"]
    else:
        engine = ["training.engine_server", "--model", str(folder)]
    front = ["sovereign.serving", "front", "--engine", f"http://127.0.0.1:{engine_port}"]
    front += ["--model-dir", str(folder), "--name", MODEL]
    with ExitStack() as stack:
        started = stack.enter_context(_process(root, "engine", [*engine, "--port", str(engine_port)]))
        stack.enter_context(_process(root, "front", [*front, "--port", str(port)]))
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: generate_one_token(url, MODEL), started, root / "engine.log")
        yield Served(url, f"http://127.0.0.1:{engine_port}", folder, started)


@contextmanager
def _process(root: Path, name: str, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (root / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def wait_for(ask: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `ask` raises no ServingError; fails when the process ends first."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            ask()
            return
        except ServingError as error:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{error}\n{log.read_text()}"
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
