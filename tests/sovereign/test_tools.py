"""Upstream programs: versions on PATH, builds into the cache (with a Go module that needs nothing), what is missing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.errors import ToolError
from sovereign.gobuild import require_space
from sovereign.locks import hold
from sovereign.packages import Package, ensure_packages
from sovereign.tools import Tool, build_tool, ensure_tools, find_tool, list_tools, load_tools, parse_version

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="builds need Go")

ROOT = Path(__file__).parents[2]
REGISTRY = """
[tiny]
version = "1.2.3"
cpu_minutes = 0.1
ldflags = "-X main.version=1.2.3"
[tiny.programs]
tiny = "example.test/tiny"
[tiny.checks]
tiny = "--version"
"""
SOURCE = 'package main\n\nvar version = "none"\n\nfunc main() { println("tiny " + version) }\n'

# Builds the tool in argv[1], printing each report; blocks for ever at the report that starts with argv[2].
BUILDER = """
import sys, threading
from pathlib import Path
from sovereign.tools import build_tool, load_tools

def report(text, share):
    print(text, flush=True)
    if sys.argv[2] and text.startswith(sys.argv[2]):
        threading.Event().wait()

print(build_tool(load_tools(Path(sys.argv[1]))["tiny"], report), flush=True)
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one tiny tool, and an empty cache; Go's own, which lies in the same folder, stays."""
    if shutil.which("go"):
        go_cache = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
        monkeypatch.setenv("GOCACHE", go_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tools"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tools.toml").write_text(REGISTRY)
    (folder / "tiny" / "go.mod").write_text("module example.test/tiny\n\ngo 1.26\n")
    (folder / "tiny" / "go.sum").write_text("")
    (folder / "tiny" / "main.go").write_text(SOURCE)
    return folder


def tiny(registry: Path) -> Tool:
    return load_tools(registry)["tiny"]


def builder(registry: Path, block_at: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(registry), block_at]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def program(folder: Path, name: str, prints: str, status: int = 0) -> Path:
    """An upstream program as far as the version check sees it."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.36.3\n", "1.36.3"),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n", "1.32.4"),
        ("containerd github.com/containerd/containerd/v2 v2.4.2 \n", "2.4.2"),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n", "1.6.20"),
        ("CoreDNS-1.15.0\nlinux/amd64, go1.26.8, \n", "1.15.0"),
        ("etcd Version: 3.7.2\nGit SHA: none\n", "3.7.2"),
        ("Version  : git\n", None),
    ],
)
def test_version_is_read_from_what_programs_print(text: str, version: str | None) -> None:
    assert parse_version(text) == version


def test_registry_pins_what_go_mod_pins() -> None:
    for tool in load_tools().values():
        pins = dict(re.findall(r"^\s*(?:require )?(\S+) v(\S+)", (tool.folder / "go.mod").read_text(), re.MULTILINE))
        for package in tool.programs.values():
            module = max((name for name in pins if f"{package}/".startswith(f"{name}/")), key=len)
            assert pins[module] == tool.version, f"{tool.name}: {module}"


def test_fitting_program_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minor = load_tools()["kubernetes"].version.rpartition(".")[0]
    kubectl = program(tmp_path / "bin", "kubectl", f"Client Version: v{minor}.99")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_tool("kubectl") == kubectl
    assert ensure_tools(["kubectl"]) == {"kubectl": kubectl}


@pytest.mark.parametrize(
    ("prints", "status", "reason"),
    [("Client Version: v1.2.3", 0, "is version 1.2.3, not"), ("what?", 0, "does not tell"), ("v1.36.3", 1, "does not")],
)
def test_other_program_on_path_is_ignored_with_a_reason(
    prints: str, status: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "bin", "kubectl", prints, status)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (kubectl,) = [item for item in list_tools() if item.name == "kubectl"]
    assert (kubectl.origin, kubectl.path) == ("missing", None)
    assert f"{path} {reason}" in kubectl.detail
    with pytest.raises(ToolError, match=reason):
        find_tool("kubectl")


def test_updated_program_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = load_tools()["pulumi"].version
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(tmp_path / "bin", "pulumi", "v1.0.0")
    with pytest.raises(ToolError):
        find_tool("pulumi")
    updated = program(tmp_path / "bin", "pulumi", f"v{pinned}")
    assert find_tool("pulumi") == updated


@needs_go
def test_build_is_whole_and_keyed_by_what_decides_it(registry: Path) -> None:
    reports: list[tuple[str, float]] = []
    folder = build_tool(tiny(registry), lambda text, share: reports.append((text, share)))
    answer = subprocess.run([folder / "tiny"], capture_output=True, text=True, check=True)
    assert answer.stderr == "tiny 1.2.3\n"
    assert [share for _, share in reports] == sorted(share for _, share in reports)
    assert folder.name.startswith("tiny-1.2.3-")
    (registry / "tools.toml").write_text(REGISTRY.replace("main.version=1.2.3", "main.version=1.2.4"))
    assert build_tool(tiny(registry), lambda *_: None) != folder
    assert subprocess.run([folder / "tiny"], capture_output=True, text=True, check=True).stderr == "tiny 1.2.3\n"


@needs_go
def test_two_builds_at_once_build_once(registry: Path, tmp_path: Path) -> None:
    with hold(tmp_path / "cache" / "sovereign" / "bin" / ".tiny.lock", lambda: None):
        both = [builder(registry), builder(registry)]
        assert [first_line(process) for process in both] == ["waiting for another build"] * 2
    talks = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert talks[0][-1] == talks[1][-1]
    assert sum("fetching modules" in talk for talk in talks) == 1


def test_lock_outlives_its_killed_holder_while_what_it_started_runs(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import subprocess, sys; from pathlib import Path; from sovereign.locks import hold\n"
        "with hold(Path(sys.argv[1]), lambda: None):\n"
        "    child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, close_fds=False)\n"
        "    print(child.pid, flush=True); child.wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        writer = int(first_line(holder))
        holder.kill()
    waited: list[int] = []

    def end_writer() -> None:
        waited.append(writer)
        os.kill(writer, signal.SIGKILL)

    with hold(lock, end_writer):
        assert waited == [writer]


@needs_go
def test_killed_build_leaves_nothing_and_goes_on(registry: Path, tmp_path: Path) -> None:
    with builder(registry, block_at="fetching") as process:
        assert first_line(process) == "fetching modules"
        process.send_signal(signal.SIGKILL)
    cache = tmp_path / "cache" / "sovereign" / "bin"
    assert list(cache.glob(".tmp-tiny-*")) and not list(cache.glob("tiny-*"))
    folder = build_tool(tiny(registry), lambda *_: None)
    assert sorted(path.name for path in folder.iterdir()) == ["build.json", "tiny"]
    assert not list(cache.glob(".tmp-tiny-*"))


@needs_go
def test_failed_build_shows_the_compiler_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    (registry / "tiny" / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    with pytest.raises(ToolError, match="undefined: nonsense"):
        build_tool(tiny(registry), lambda *_: None)
    assert [path.name for path in (tmp_path / "cache" / "sovereign" / "bin").iterdir()] == [".tiny.lock"]


@needs_go
def test_without_go_a_build_says_so_but_what_was_built_is_found(
    registry: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sovereign.tools.data_path", lambda _: registry)
    built = build_tool(tiny(registry), lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_tool("tiny") == built / "tiny"
    shutil.rmtree(built)
    with pytest.raises(ToolError, match="Go is needed") as caught:
        ensure_tools(["tiny"])
    assert "no go on PATH" in str(caught.value)


@needs_go
def test_old_go_is_refused(registry: Path) -> None:
    (registry / "tiny" / "go.mod").write_text("module example.test/tiny\n\ngo 99.1\n")
    with pytest.raises(ToolError, match="too old") as caught:
        build_tool(tiny(registry), lambda *_: None)
    assert caught.value.expected == "99.1"


@needs_go
def test_missing_network_is_named(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GONOSUMDB", "*")
    pin = "example.test/other v1.0.0"
    (registry / "tiny" / "go.mod").write_text(f"module example.test/tiny\n\ngo 1.26\n\nrequire {pin}\n")
    (registry / "tiny" / "go.sum").write_text(f"{pin} h1:{'A' * 43}=\n{pin}/go.mod h1:{'A' * 43}=\n")
    (registry / "tiny" / "main.go").write_text('package main\n\nimport _ "example.test/other"\n\nfunc main() {}\n')
    with pytest.raises(ToolError, match="no network"):
        build_tool(tiny(registry), lambda *_: None)


@needs_go
def test_full_disk_is_named_before_building() -> None:
    with pytest.raises(ToolError, match="not enough disk space"):
        require_space(cpu_minutes=1e9)


def test_unknown_program_is_named() -> None:
    with pytest.raises(ToolError, match="nosuch"):
        find_tool("nosuch")


def test_missing_packages_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there, gone = Package("there", "a", lambda: True), Package("gone", "needed here", lambda: False)
    ensure_packages([there])
    with pytest.raises(ToolError, match=r"gone \(needed here\)") as caught:
        ensure_packages([there, gone])
    assert caught.value.hint is not None and "apt-get install --no-install-recommends gone" in caught.value.hint
