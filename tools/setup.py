"""Makes the Python runtime of the kit in the user's cache and prints its folder as the last line on stdout.

    python3 tools/setup.py                    set up; run again it does nothing, in well under a second
    python3 tools/setup.py peers              fetch what only the benchmarks import, print its folder
    python3 tools/setup.py lock [--upgrade]   write requirements/*.txt again (needs a network)

Standard library only. Four kinds of folders below the cache, each named by a digest of what it was made from:

    bootstrap/  uv, from requirements/bootstrap.txt
    env/        third-party packages, from requirements/lock.txt and this Python
    peers/      litgpt and datatrove, from requirements/peers.txt, for the benchmarks: they bound what we have newer
    runtime/    our wheel, unpacked, over an env; written aside, synced, renamed and never changed afterwards,
                so that a pod can run from it while the checkout moves on

It does not install distribution packages or upstream programs: `sovereign tools build` does.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit(f"set-up failed: Python 3.11 or later is needed, this is {sys.version.split()[0]}; set PYTHON=… for make")

import argparse
import compileall
import configparser
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # run as a script: our own modules that need nothing but the standard library

from sovereign.errors import ToolError  # noqa: E402
from sovereign.files import sync_folder, write_atomic  # noqa: E402
from sovereign.locks import hold  # noqa: E402
from sovereign.packages import VENV_PACKAGE, ensure_packages  # noqa: E402
from sovereign.resources import cache_dir  # noqa: E402
from sovereign.runtime import RUNTIME_FILE  # noqa: E402

BOOTSTRAP = ROOT / "requirements" / "bootstrap.txt"
LOCK = ROOT / "requirements" / "lock.txt"
PEERS = ROOT / "requirements" / "peers.txt"
TRAINING_PEERS = ("litgpt", "lightning", "lightning-utilities", "torchmetrics", "jsonargparse<=4.41")
CURATION_PEERS = ("datatrove", "humanize", "loguru", "xxhash<4")
SOURCE_FILES = ("pyproject.toml", "LICENSE")
SOURCE_FOLDERS = ("sovereign", "stacks", "training", "templates", "runbooks", "tools")
COMPLETE = ".complete"  # the last file written into a bootstrap or env folder
ENV_BYTES = 7_000_000_000  # measured: 6.1 GB, and uv's copies of archives while it unpacks
ENV_NOTE = "about 3 GB to fetch, 6.1 GB on disk; 1 to 10 minutes"
HEARTBEAT_S = 15.0

NETWORK_SIGNS = re.compile(
    r"dns error|name resolution|failed to lookup|failed to connect|connection (refused|reset|error)|timed out"
    r"|network is unreachable|error sending request|failed to fetch|newconnectionerror|max retries",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BasePython:
    """The Python that runs this file, without any virtual environment around it."""

    executable: Path
    prefix: Path
    tag: str
    """Everything about it that decides which packages fit and whether compiled bytecode is valid."""

    @classmethod
    def current(cls) -> BasePython:
        executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        prefix = Path(sys.base_prefix).resolve()
        tag = f"{sys.implementation.cache_tag} {sys.version} {platform.machine()} {executable} {prefix}"
        return cls(executable, prefix, tag)

    @property
    def library(self) -> str:
        """Where packages are below an environment's folder."""
        return f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def set_up() -> Path:
    """Make what is missing and return the runtime's folder.

    Raises:
        ToolError: no network, no disk space, no venv module, or an installation failed.
    """
    python = BasePython.current()
    cache = cache_dir()
    sources = read_sources(ROOT)
    env = cache / "env" / digest(LOCK.read_bytes(), python.tag.encode())
    runtime = cache / "runtime" / runtime_name(env.name, sources)
    if (runtime / RUNTIME_FILE).exists() and (env / COMPLETE).exists():
        return runtime
    os.umask(0o022)  # pods read these folders as another user
    with _alone(cache):
        make_env(env, cache, python)
        make_runtime(runtime, env, python, sources)
    return runtime


def make_peers() -> Path:
    """Install the packages that only the benchmarks import, without those that they depend on: our lock has them.

    Raises:
        ToolError: no network, or the installation failed.
    """
    cache, python = cache_dir(), BasePython.current()
    folder = cache / "peers" / digest(PEERS.read_bytes(), python.tag.encode())
    with _alone(cache):
        if not (folder / COMPLETE).exists():
            uv = make_uv(cache, python)
            shutil.rmtree(folder, ignore_errors=True)
            command: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            command += ["--python", python.executable, "--target", folder, "-r", PEERS]
            run(command, "installing the peers of the benchmarks")
            write_atomic(folder / COMPLETE, "")
    return folder


def _alone(cache: Path) -> AbstractContextManager[object]:
    """No other set-up writes into the cache meanwhile."""
    return hold(cache / "setup.lock", lambda: say("another set-up is running; waiting for it"))


def read_sources(root: Path) -> dict[str, bytes]:
    """Content of every file that our wheel is built from, by its path in the checkout, in a fixed order."""
    paths = [root / name for name in SOURCE_FILES]
    for folder in SOURCE_FOLDERS:
        paths += [path for path in (root / folder).rglob("*") if path.is_file() and not _is_derived(path)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def runtime_name(env_name: str, sources: dict[str, bytes]) -> str:
    """Name of the runtime's folder: a digest of its environment and of path and content of every source."""
    return digest(env_name.encode(), *(part for name, content in sources.items() for part in (name.encode(), content)))


def make_env(env: Path, cache: Path, python: BasePython) -> None:
    """Install the locked third-party packages into `env`, unless it is complete.

    An interrupted one starts again: a half-written package cannot be told from a whole one, and uv's own
    cache keeps what was fetched, so that only the last step is repeated.
    """
    if (env / COMPLETE).exists():
        return
    need_space(cache, ENV_BYTES)
    uv = make_uv(cache, python)
    say(f"installing {len(re.findall('^[^ ]+==', LOCK.read_text(), re.MULTILINE))} locked packages ({ENV_NOTE})")
    shutil.rmtree(env, ignore_errors=True)
    run([uv, "venv", "--quiet", "--no-project", "--python", python.executable, env], "making a virtual environment")
    command: list[str | Path] = [
        uv,
        "pip",
        "sync",
        "--python",
        env / "bin" / "python",
        "--require-hashes",
        "--compile-bytecode",
    ]
    run([*command, "--build-constraints", LOCK, LOCK], "installing the locked packages", growth_of=cache)
    _make_readable(env)
    os.sync()
    write_atomic(env / COMPLETE, "")


def make_uv(cache: Path, python: BasePython) -> Path:
    """The pinned uv, installed by pip into a virtual environment of its own.

    Raises:
        ToolError: this Python cannot make virtual environments, or there is no network.
    """
    folder = cache / "bootstrap" / digest(BOOTSTRAP.read_bytes(), python.tag.encode())
    if not (folder / COMPLETE).exists():
        ensure_packages([VENV_PACKAGE], progress=say)
        say("installing uv")
        shutil.rmtree(folder, ignore_errors=True)
        run([python.executable, "-m", "venv", folder], "making a virtual environment for uv")
        pip: list[str | Path] = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--only-binary",
            ":all:",
        ]
        run([*pip, "--require-hashes", "-r", BOOTSTRAP], "installing uv")
        write_atomic(folder / COMPLETE, "")
    return folder / "bin" / "uv"


def make_runtime(runtime: Path, env: Path, python: BasePython, sources: dict[str, bytes]) -> None:
    """Build our wheel from `sources` and unpack it over `env`, unless `runtime` exists."""
    if runtime.exists():
        return
    runtime.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in runtime.parent.glob(".tmp-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(dir=runtime.parent, prefix=".tmp-") as aside:
        new = Path(aside) / runtime.name
        site = new / python.library
        site.mkdir(parents=True)
        with zipfile.ZipFile(build_wheel(Path(aside), env, sources)) as wheel:
            wheel.extractall(site)
        (site / "env.pth").write_text(f"import site; site.addsitedir({str(env / python.library)!r})\n")
        (new / "pyvenv.cfg").write_text(f"home = {python.executable.parent}\ninclude-system-site-packages = false\n")
        _make_bin(new, runtime, env, python)
        description = {"digest": runtime.name, "env": str(env), "python_prefix": str(python.prefix)}
        (new / RUNTIME_FILE).write_text(json.dumps(description, indent=2) + "\n")
        compileall.compile_dir(site, quiet=1, stripdir=str(new), prependdir=str(runtime), workers=1)
        _make_readable(new)
        _sync_tree(new)
        new.rename(runtime)
        sync_folder(runtime.parent)
    say(f"made runtime {runtime.name}")


def build_wheel(aside: Path, env: Path, sources: dict[str, bytes]) -> Path:
    """Our wheel, built from exactly `sources` with the env's hatchling: no network, no isolated build."""
    snapshot = aside / "source"
    for name, content in sources.items():
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command: list[str | Path] = [
        env / "bin" / "python",
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        aside / "dist",
    ]
    run(command, "building our wheel", cwd=snapshot)
    (wheel,) = (aside / "dist").glob("*.whl")
    return wheel


def _make_bin(new: Path, runtime: Path, env: Path, python: BasePython) -> None:
    """Fill bin/: the Python links, a script for every console entry point, links to the env's compiled programs."""
    folder = new / "bin"
    folder.mkdir()
    for name in ("python", "python3", f"python3.{sys.version_info.minor}"):
        (folder / name).symlink_to(python.executable)
    for distribution in metadata.distributions(path=[str(env / python.library), str(new / python.library)]):
        scripts = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        scripts.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
        scripts.read_string(distribution.read_text("entry_points.txt") or "")
        for name, target in scripts["console_scripts"].items() if "console_scripts" in scripts else ():
            (folder / name).write_text(_script(runtime / "bin" / "python", target))
            (folder / name).chmod(0o755)
    for program in (env / "bin").iterdir():
        with program.open("rb") as file:
            is_compiled = file.read(4) == b"\x7fELF"
        if is_compiled and not (folder / program.name).is_symlink():
            (folder / program.name).symlink_to(program)


def _script(python: Path, target: str) -> str:
    """A console script; through sh, since a shebang allows neither spaces nor long paths."""
    module, _, function = target.partition("[")[0].strip().partition(":")
    return (
        f"#!/bin/sh\n'''exec' {shlex.quote(str(python))} \"$0\" \"$@\"\n' '''\nimport sys\n\n"
        f'import {module}\n\nif __name__ == "__main__":\n    sys.exit({module}.{function}())\n'
    )


def write_locks(*, upgrade: bool) -> None:
    """Resolve pyproject.toml with all extras, and uv itself, to hash-pinned files that name no host."""
    uv = make_uv(cache_dir(), BasePython.current())
    compile_: list[str | Path] = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
    ]
    compile_ += ["--no-annotate", "--no-header", "--no-emit-index-url", *(["--upgrade"] if upgrade else [])]
    run([*compile_, "--all-extras", "pyproject.toml", "-o", LOCK], "resolving the packages", cwd=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "bootstrap.in"
        wanted.write_text("uv\n")
        run([*compile_, wanted, "-o", BOOTSTRAP], "resolving uv", cwd=ROOT)
        wanted.write_text("\n".join(TRAINING_PEERS + CURATION_PEERS))
        run([*compile_, "--no-deps", wanted, "-o", PEERS], "resolving the benchmarks' peers", cwd=ROOT)


def run(command: Sequence[str | Path], what: str, *, cwd: Path | None = None, growth_of: Path | None = None) -> None:
    """Run `command`; while it runs, say how much the disk of `growth_of` has filled.

    Raises:
        ToolError: it failed, with the end of what it printed and, where that can be told, the cause.
    """
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    environment.pop("PYTHONPATH", None)
    started, free_before = time.monotonic(), shutil.disk_usage(growth_of or "/").free
    grown = 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            close_fds=False,  # shares the set-up's lock: see sovereign.locks
        )
        try:
            while True:
                try:
                    status = process.wait(HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    # Others write to the disk too: never show less than before.
                    grown = max(grown, (free_before - shutil.disk_usage(growth_of or "/").free) / 1e9)
                    written = f", about {grown:.1f} GB written" if growth_of else ""
                    say(f"{what}: {time.monotonic() - started:.0f} s{written}")
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    if status != 0:
        raise ToolError(f"{what} failed", got="\n    ".join(text.strip().splitlines()[-15:]), hint=_cause(text))


def _cause(text: str) -> str:
    if "no space left" in text.lower():
        return f"the disk is full; about {ENV_BYTES / 1e9:.0f} GB are needed. XDG_CACHE_HOME can name another disk"
    if NETWORK_SIGNS.search(text):
        return "no network, or no package index behind it: the first set-up needs one. pip's and uv's settings count"
    return "what it printed is above; run set-up again after mending it"


def need_space(cache: Path, needed_bytes: int) -> None:
    """Raises: ToolError when the cache's disk has less free space than `needed_bytes`."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < needed_bytes:
        raise ToolError(
            f"not enough disk space for {cache}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed_bytes / 1e9:.0f} GB",
            hint="free some, or set XDG_CACHE_HOME to a folder on another disk",
        )


def digest(*parts: bytes) -> str:
    """16 hex digits over the parts, each with its length, so that no two lists of parts read the same."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]


def say(text: str) -> None:
    """Progress goes to stderr; stdout is data."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def _is_derived(path: Path) -> bool:
    return "__pycache__" in path.parts or path.name.startswith(".")


def _make_readable(tree: Path) -> None:
    """Let every user read `tree` and enter its folders: an installer may have kept an archive's narrow modes."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)  # pods read it as another user
        for path in (Path(folder, name) for name in files):
            mode = path.lstat().st_mode
            if not path.is_symlink() and mode & 0o444 != 0o444:
                path.chmod(mode & 0o777 | 0o444)


def _sync_tree(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file)
        sync_folder(Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the kit's Python runtime, or its locks.")
    parser.add_argument("command", nargs="?", choices=["lock", "peers"])
    parser.add_argument("--upgrade", action="store_true", help="with lock: take the newest versions")
    arguments = parser.parse_args()
    try:
        if arguments.command == "lock":
            write_locks(upgrade=arguments.upgrade)
        elif arguments.command == "peers":
            print(make_peers())
        else:
            print(set_up())
    except ToolError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
