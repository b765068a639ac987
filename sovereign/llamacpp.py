"""llama.cpp for this machine: llama-cpp-python in a virtual environment of its own, built once into the user's cache.

Quantising to q4_k needs it, and comparing an exported file with its source; nothing else does, so nobody who does not
export waits for it. There is no wheel of it: it compiles for about 12 CPU-minutes, at the lowest priority.
tools/llama.cpp has the pins with their hashes: `wheels.txt`, what the build and the package need, and `source.txt`,
the package itself. The environment's folder is named by a digest of pins, flags and Python; its mark `.complete` comes
last.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sovereign.errors import ToolError
from sovereign.files import write_atomic
from sovereign.locks import hold
from sovereign.packages import COMPILER_PACKAGES, ensure_packages
from sovereign.proxies import download_environment
from sovereign.resources import cache_dir, data_path

CPU_MINUTES = 12
"""What the build takes, measured on a Sapphire Rapids server."""
DISK_BYTES = 1_000_000_000
"""Room that the build needs for a while; what stays is about 200 MB."""
FLAGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF"
"""CMake's: a build for every machine of the last ten years, without image models, without a network client."""

_COMPLETE = ".complete"
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")
_NETWORK_SIGNS = re.compile(r"name resolution|NewConnectionError|Max retries|timed out|No matching distribution")

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0 to 1."""


def find_llama() -> Path | None:
    """Python of the environment that has llama_cpp, or None where it is not built."""
    folder = _folder()
    return folder / "bin" / "python" if (folder / _COMPLETE).exists() else None


def ensure_llama(report: Progress) -> Path:
    """Python of the environment that has llama_cpp; builds it where it is not there.

    Raises:
        ToolError: no compiler, no network, no disk space, or the build failed.
    """
    if (found := find_llama()) is not None:
        return found
    folder = _folder()
    with hold(folder.parent / ".lock", lambda: report("waiting for another build of llama.cpp", 0.0)):
        if find_llama() is None:
            ensure_packages(COMPILER_PACKAGES, progress=lambda line: report(line, 0.0))
            _require_space(folder.parent)
            shutil.rmtree(folder, ignore_errors=True)  # of a build that was stopped
            folder.with_suffix(".log").unlink(missing_ok=True)
            _build(folder, report)
            write_atomic(folder / _COMPLETE, "")
    return folder / "bin" / "python"


def _folder() -> Path:
    """Where the environment of these pins, these flags and this Python is, or will be."""
    pins = data_path("tools") / "llama.cpp"
    total = hashlib.sha256()
    for part in (_base_python(), Path(sys.base_prefix)):
        total.update(f"{part.resolve()} {sys.version} {platform.machine()} {FLAGS}".encode())
    for name in ("wheels.txt", "source.txt"):
        total.update((pins / name).read_bytes())
    return cache_dir() / "llama.cpp" / total.hexdigest()[:16]


def _base_python() -> Path:
    """This Python without any virtual environment around it."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise ToolError(
            f"not enough disk space to build llama.cpp in {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{DISK_BYTES / 1e9:.0f} GB",
            hint="free some, or set XDG_CACHE_HOME to a folder on another disk",
        )


def _build(folder: Path, report: Progress) -> None:
    """Fetch and compile into the new environment `folder`."""
    pins = data_path("tools") / "llama.cpp"
    report("making an environment for llama.cpp", 0.0)
    _run([str(_base_python()), "-m", "venv", str(folder)], folder, lambda _: None)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", "--require-hashes"]
    report("fetching what llama.cpp is built with", 0.0)
    _run([*pip, "--only-binary", ":all:", "-r", str(pins / "wheels.txt")], folder, lambda _: None)
    report(f"fetching llama.cpp, then compiling it (about {CPU_MINUTES} CPU-minutes)", 0.0)

    def on_line(line: str) -> None:
        if step := _STEP.search(line):
            done, total = int(step[1]), int(step[2])
            report(f"compiling llama.cpp: {done} of {total} files", done / total)

    # pip would take a wheel of other flags from its cache.
    source = [
        "--no-cache-dir",
        "--verbose",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
        "-r",
        str(pins / "source.txt"),
    ]
    _run([*pip, *source], folder, on_line)
    _run([str(folder / "bin" / "python"), "-c", "import llama_cpp"], folder, lambda _: None)


def _run(command: Sequence[str], folder: Path, on_line: Callable[[str], None]) -> None:
    """Run `command` at the lowest priority and hand each line that it writes to `on_line`.

    Raises:
        ToolError: it failed, with the end of what it wrote.
    """
    environment = {**download_environment(), "CMAKE_ARGS": FLAGS}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment.pop("PYTHONPATH", None)
    log = folder.with_suffix(".log")
    with (
        log.open("a", encoding="utf-8") as record,
        subprocess.Popen(
            ["nice", "-n", "19", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            close_fds=False,  # shares the lock of whoever builds: see sovereign.locks
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                on_line(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8").splitlines()[-15:]
        raise ToolError("llama.cpp cannot be built", got="\n    ".join(last), hint=_cause("\n".join(last), log))


def _cause(text: str, log: Path) -> str:
    if "No space left" in text:
        return "the disk is full; TMPDIR and XDG_CACHE_HOME can name folders on another one"
    if _NETWORK_SIGNS.search(text):
        return "no network, or no package index behind it: the first build needs one. pip's settings count"
    return f"the whole log is {log}"
