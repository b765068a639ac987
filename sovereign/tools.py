"""Upstream programs: taken from PATH when their version fits, else built once into the user's cache.

The registry is tools/tools.toml. A build's folder below `<cache>/bin` is named by its version and a digest of all
that decides what comes out, is made aside and renamed, so that it is whole or not there, and never changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sovereign.errors import ToolError
from sovereign.files import sync_folder
from sovereign.gobuild import GoBuild, compile_, fetch, go_version, module_folder, require_go, require_space
from sovereign.locks import hold
from sovereign.resources import cache_dir, data_path

CHECK_TIMEOUT_S = 30
_DESCRIPTION = "build.json"


@dataclass(frozen=True)
class Tool:
    """One build: some programs of one Go module."""

    name: str
    version: str
    folder: Path
    """Has go.mod and go.sum."""
    programs: dict[str, str]
    """Go package by program name."""
    cpu_minutes: float
    checks: dict[str, str] = field(default_factory=dict)
    """Arguments that print a program's version; a program without is never taken from PATH."""
    ldflags: str = ""
    tags: str = ""
    source: str = ""
    """Module that `data` is copied from."""
    data: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        tags = ("-tags", self.tags) if self.tags else ()
        return (*tags, "-ldflags", f"-s -w {self.ldflags}".strip())

    @property
    def source_digest(self) -> str:
        """Over everything but the Go version that decides what a build yields; 64 hex digits."""
        pins = [(self.folder / name).read_bytes().hex() for name in ("go.mod", "go.sum")]
        parts = [*pins, *self.flags, sorted(self.programs.items()), self.source, self.data, os.uname().machine]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class ToolStatus:
    """Where one program comes from."""

    name: str
    """The program's."""
    tool: str
    """The build that it belongs to."""
    version: str
    """The pinned version."""
    origin: str
    """``path``, ``built`` or ``missing``."""
    path: Path | None
    detail: str
    """For a missing one how long it takes to build; why the one on PATH is not used, where there is one."""


Progress = Callable[[str, float], None]
"""Called with what is being done and how much of all that is to be built is done, 0 to 1."""


def load_tools(folder: Path | None = None) -> dict[str, Tool]:
    """The registry in `folder` (the shipped one by default), by tool name, in the order of building."""
    folder = folder or data_path("tools")
    tables = tomllib.loads((folder / "tools.toml").read_text())
    tools = {}
    for name, table in tables.items():
        module = folder / table.pop("module", name)
        tools[name] = Tool(name=name, folder=module, data=tuple(table.pop("data", ())), **table)
    return tools


def find_tool(name: str) -> Path:
    """The program `name`, from PATH or the cache; never builds.

    Raises:
        ToolError: it is in neither.
    """
    status = _status(name, _tool_of(name))
    if status.path is None:
        raise ToolError(f"{name} {status.version} is not there", got=status.detail, hint="`sovereign tools build`")
    return status.path


def find_data(tool: str, folder: str) -> Path:
    """A data folder that was copied from a tool's module, such as ``config`` of ``kueue``.

    Raises:
        ToolError: the tool was not built.
    """
    built = _built(load_tools()[tool])
    if built is None:
        raise ToolError(f"{folder} of {tool} is not there", hint="`sovereign tools build`")
    return built / "data" / folder


def list_tools() -> list[ToolStatus]:
    """Every program of the registry and where it comes from."""
    return [_status(program, tool) for tool in load_tools().values() for program in tool.programs]


def ensure_tools(names: Iterable[str], progress: Progress | None = None) -> dict[str, Path]:
    """Path of each program in `names`; builds those that are neither on PATH nor in the cache.

    Args:
        names: program names.
        progress: called while building.

    Raises:
        ToolError: no Go, no network, no disk space, or a build failed.
    """
    wanted = list(names)
    missing = {_tool_of(name).name for name in wanted if _status(name, _tool_of(name)).path is None}
    queue = [tool for name, tool in load_tools().items() if name in missing]
    for tool in queue:
        require_go(tool.folder)
    total_s = sum(_build_minutes(tool) for tool in queue) * 60
    done_s = 0.0
    for tool in queue:
        build_tool(tool, _share_of_all(tool, done_s, total_s, progress))
        done_s += _build_minutes(tool) * 60
    return {name: find_tool(name) for name in wanted}


def build_all(progress: Progress | None = None) -> dict[str, Path]:
    """Make every program of the registry available; see `ensure_tools`."""
    return ensure_tools([program for tool in load_tools().values() for program in tool.programs], progress)


def build_tool(tool: Tool, report: Progress) -> Path:
    """Build `tool` into the cache, unless another process just did, and return its folder.

    Args:
        tool: what to build.
        report: called with what is being done and how much of this tool is done, 0 to 1.

    Raises:
        ToolError: no Go, no network, no disk space, or the build failed.
    """
    require_go(tool.folder)
    target = _target(tool)
    with hold(target.parent / f".{tool.name}.lock", lambda: report("waiting for another build", 0.0)):
        if not target.exists():
            require_space(tool.cpu_minutes)
            for abandoned in target.parent.glob(f".tmp-{tool.name}-*"):
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".tmp-{tool.name}-") as aside:
                _build_into(tool, Path(aside) / "build", report)
                (Path(aside) / "build").rename(target)
            sync_folder(target.parent)
    return target


def _share_of_all(tool: Tool, done_s: float, total_s: float, progress: Progress | None) -> Progress:
    """A `report` for one tool that speaks of the whole queue, with an estimate of the time left.

    The estimate is the registry's at first, then what this tool's own speed makes of it.
    """
    own_s = _build_minutes(tool) * 60
    started = time.monotonic()

    def report(text: str, share: float) -> None:
        if progress is None:
            return
        elapsed_s = time.monotonic() - started
        left_s = own_s * (1 - share) if share < 0.1 else elapsed_s * (1 - share) / share
        left_s += total_s - done_s - own_s
        progress(
            f"{tool.name} {tool.version}: {text}, about {left_s / 60:.0f} min left", (done_s + own_s * share) / total_s
        )

    return report


def _build_into(tool: Tool, folder: Path, report: Progress) -> None:
    """Programs, data folders and a description of the build, synced, in the new `folder`."""
    folder.mkdir()
    programs = list(tool.programs.items())
    output = folder if len(programs) > 1 else folder / programs[0][0]
    build = GoBuild(tool.folder, tuple(package for _, package in programs), tool.flags, output)
    report("fetching modules", 0.0)
    to_compile = fetch(build, lambda count: report(f"fetched {count} modules", 0.0))

    def on_package(compiled: int) -> None:
        # Linking follows the last package, so that this never shows the whole.
        report(f"compiled {compiled} of {to_compile} packages", min(compiled / max(to_compile, compiled), 0.98))

    compile_(build, on_package)
    for name in tool.data:
        shutil.copytree(module_folder(build, tool.source) / name, folder / "data" / name, copy_function=shutil.copyfile)
    (folder / _DESCRIPTION).write_text(json.dumps({"source": tool.source_digest, "go": go_version()}) + "\n")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # Go's module cache is read-only
            sync_folder(path)
        else:
            path.chmod(0o755 if path.name in tool.programs else 0o644)
            with path.open("rb") as file:
                os.fsync(file)


def _status(program: str, tool: Tool) -> ToolStatus:
    on_path = shutil.which(program) if program in tool.checks else None
    reason = "" if on_path is None else _misfit(Path(on_path), tool.checks[program], tool.version)
    built = _built(tool)
    if on_path is not None and not reason:
        return ToolStatus(program, tool.name, tool.version, "path", Path(on_path), "")
    if built is not None:
        return ToolStatus(program, tool.name, tool.version, "built", built / program, reason)
    detail = f"not built yet, about {_build_minutes(tool):.0f} min" + (f" ({reason})" if reason else "")
    return ToolStatus(program, tool.name, tool.version, "missing", None, detail)


def _misfit(path: Path, check: str, pinned: str) -> str:
    """Why the program at `path` cannot be used, or an empty string when it has the pinned minor version."""
    stat = path.stat()
    found = _version_of(path, check, (stat.st_mtime_ns, stat.st_size))
    if found is None:
        return f"{path} does not tell its version ({check})"
    if found.split(".")[:2] != pinned.split(".")[:2]:
        return f"{path} is version {found}, not {'.'.join(pinned.split('.')[:2])}"
    return ""


@functools.cache
def _version_of(path: Path, check: str, _state: tuple[int, int]) -> str | None:
    """Version that a program prints; asked once for each state (time and size) of its file."""
    try:
        answer = subprocess.run(
            [path, *check.split()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(answer.stdout + answer.stderr) if answer.returncode == 0 else None


def parse_version(text: str) -> str | None:
    """The first ``1.2.3`` in what a program prints about itself, or None."""
    match = re.search(r"(?<![\d.])v?(\d+\.\d+\.\d+)", text)
    return match.group(1) if match else None


def _target(tool: Tool) -> Path:
    """Folder that this machine's Go would build `tool` into."""
    key = hashlib.sha256(f"{tool.source_digest} {go_version()}".encode()).hexdigest()[:8]
    return cache_dir() / "bin" / f"{tool.name}-{tool.version}-{key}"


def _built(tool: Tool) -> Path | None:
    """The built folder of `tool`. Without Go, one that any Go built from the same sources will do."""
    if go_version() is not None:
        target = _target(tool)
        return target if target.exists() else None
    for folder in sorted((cache_dir() / "bin").glob(f"{tool.name}-{tool.version}-*")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one is built again
            if json.loads((folder / _DESCRIPTION).read_text())["source"] == tool.source_digest:
                return folder
    return None


def _tool_of(program: str) -> Tool:
    for tool in load_tools().values():
        if program in tool.programs:
            return tool
    raise ToolError(f"no tool of the kit has a program {program}")


def _build_minutes(tool: Tool) -> float:
    return tool.cpu_minutes / len(os.sched_getaffinity(0))
