"""Builds Go programs from a folder with a pinned go.mod and go.sum, with progress and errors that name what is missing.

An interrupted build goes on where it was, through Go's own build cache. Fetches modules only when Go's module
cache lacks them. Does not know which programs the kit needs: sovereign.tools does.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import ToolError
from sovereign.proxies import download_environment

BYTES_PER_CPU_MINUTE = 400_000_000
"""Disk that Go's caches took per CPU-minute of building, all of tools/tools.toml together."""

_NETWORK_SIGNS = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|proxyconnect|TLS handshake|network is unreachable"
    r"|module lookup disabled|no route to host",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GoBuild:
    """What to build: the packages of the module in `folder`, into the folder `output` or, for one package, the file."""

    folder: Path
    packages: tuple[str, ...]
    flags: tuple[str, ...]
    output: Path


def go_version() -> str | None:
    """Version of the Go on PATH, such as ``1.26.8``, or None without one."""
    path = shutil.which("go")
    return None if path is None else _version_of_go(path)


@functools.cache
def _version_of_go(path: str) -> str | None:
    answer = subprocess.run([path, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False)
    return answer.stdout.strip().removeprefix("go") or None


def require_go(folder: Path) -> None:
    """Check that there is a Go as new as the go.mod in `folder` asks for.

    Raises:
        ToolError: there is none, or it is too old (another one is never downloaded behind the user's back).
    """
    match = re.search(r"^go (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    wanted = match.group(1) if match else "1.26"
    found = go_version()
    hint = "install it from your distribution or from the Go project and put its bin folder on PATH"
    if found is None:
        raise ToolError("Go is needed to build the upstream programs", got="no go on PATH", expected=wanted, hint=hint)
    if _numbers(found) < _numbers(wanted):
        raise ToolError("this Go is too old to build the upstream programs", got=found, expected=wanted, hint=hint)


def require_space(cpu_minutes: float) -> None:
    """Raises: ToolError when Go's build cache lies on a disk with too little space for so large a build."""
    answer = subprocess.run(["go", "env", "GOCACHE"], env=_environment(), capture_output=True, text=True, check=False)
    cache = Path(answer.stdout.strip() or Path.home())
    while not cache.exists():
        cache = cache.parent
    free, needed = shutil.disk_usage(cache).free, cpu_minutes * BYTES_PER_CPU_MINUTE
    if free < needed:
        raise _no_space(cache, f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")


def fetch(build: GoBuild, progress: Callable[[int], None]) -> int:
    """Fetch the modules that `build` needs and count the packages that are not compiled yet.

    Args:
        build: what will be built.
        progress: called with the number of modules fetched so far.

    Raises:
        ToolError: there is no network, no space, or the module does not fit its go.sum.
    """
    fetched = 0

    def count(line: str) -> None:
        nonlocal fetched
        if line.startswith("go: downloading"):
            fetched += 1
            progress(fetched)

    listing = _go(build, ["list", "-deps", "-f", "{{.Stale}}", *build.flags, *build.packages], count)
    return listing.count("true")


def compile_(build: GoBuild, progress: Callable[[int], None]) -> None:
    """Build, calling `progress` with the number of packages compiled so far.

    Raises:
        ToolError: it does not compile, or there is no space.
    """
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        if not line.startswith("go: "):
            compiled += 1
            progress(compiled)

    _go(build, ["build", "-v", "-o", str(build.output), *build.flags, *build.packages], count)


def module_folder(build: GoBuild, module: str) -> Path:
    """Where Go's module cache has the source of `module`.

    Raises:
        ToolError: it cannot be fetched.
    """
    _go(build, ["mod", "download", module], lambda _: None)
    return Path(_go(build, ["list", "-m", "-f", "{{.Dir}}", module], lambda _: None).strip())


def _go(build: GoBuild, arguments: Sequence[str], on_line: Callable[[str], None]) -> str:
    """Run go in the module's folder, hand each line of its stderr to `on_line`, return its stdout."""
    talk: list[str] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["go", *arguments],
            cwd=build.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            close_fds=False,  # shares the lock of whoever builds: see sovereign.locks
        )
        assert process.stderr is not None
        with process:
            try:
                for line in process.stderr:
                    talk.append(line.rstrip())
                    on_line(line)
            except BaseException:
                process.kill()
                raise
        output.seek(0)
        if process.returncode != 0:
            raise _explained(build, talk)
        return output.read()


def _explained(build: GoBuild, talk: list[str]) -> ToolError:
    text = "\n    ".join(talk[-10:])
    if "no space left on device" in text:
        return _no_space(Path(tempfile.gettempdir()), text)
    if _NETWORK_SIGNS.search(text):
        hint = "building needs a network once (GOPROXY counts), or programs of the pinned versions on PATH"
        return ToolError("no network to fetch Go modules from", got=text, hint=hint)
    return ToolError(f"building {', '.join(build.packages)} failed", got=text, hint=f"sources: {build.folder}")


def _no_space(folder: Path, got: str) -> ToolError:
    hint = "free some, or name folders on another disk with GOCACHE, GOMODCACHE, TMPDIR and XDG_CACHE_HOME"
    return ToolError(f"not enough disk space to build (looked at {folder})", got=got, hint=hint)


def _environment() -> dict[str, str]:
    """Go's settings, the same whatever the user's are: pinned modules only, nothing of this machine in the program.

    No debugging information is made, which linking throws away: a tenth less time, a quarter less of Go's cache.
    """
    flags = "-mod=readonly -trimpath -buildvcs=false -gcflags=all=-dwarf=false"
    return {**download_environment(), "GOFLAGS": flags, "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version; a release candidate counts as its release."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("rc")[0])[:3])
