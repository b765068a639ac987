"""Distribution packages that the kit needs: checked by what they bring, installed by apt-get for root.

Standard library only, since tools/setup.py imports it before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import ToolError
from sovereign.proxies import download_environment

# Root's tools lie in sbin, which an ordinary user's PATH does not name.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Package:
    """A distribution package, by its Debian name."""

    name: str
    reason: str
    is_present: Callable[[], bool]


def _program(name: str, program: str, reason: str) -> Package:
    return Package(name, reason, lambda: shutil.which(program, path=_SEARCH_PATH) is not None)


def _file(name: str, paths: Sequence[str], reason: str) -> Package:
    return Package(name, reason, lambda: any(Path(path).exists() for path in paths))


NODE_PACKAGES = (
    _program("runc", "runc", "starts the containers of the embedded node"),
    _file("containernetworking-plugins", ("/usr/lib/cni/bridge", "/opt/cni/bin/bridge"), "connects its pods"),
    _program("nftables", "nft", "kube-proxy's rules"),
    _program("iptables", "iptables", "the CNI plugins' rules"),
    _program("iproute2", "ip", "network namespaces and interfaces"),
    _program("conntrack", "conntrack", "kube-proxy's table of connections"),
    _program("catatonit", "catatonit", "the pods' pause process"),
)
"""What the embedded node needs."""

VENV_PACKAGE = Package(
    "python3-venv", "makes virtual environments", lambda: importlib.util.find_spec("ensurepip") is not None
)
COMPILER_PACKAGES = (
    _program("g++", "g++", "torch.compile"),
    Package("python3-dev", "torch.compile", lambda: Path(sysconfig.get_path("include"), "Python.h").exists()),
    VENV_PACKAGE,
)
"""What torch.compile needs, on this machine and in pods, which see the host's /usr."""

ALL_PACKAGES = NODE_PACKAGES + COMPILER_PACKAGES


def missing_packages(packages: Iterable[Package] = ALL_PACKAGES) -> list[Package]:
    """Those of `packages` that are not installed."""
    return [package for package in packages if not package.is_present()]


def ensure_packages(packages: Iterable[Package] = ALL_PACKAGES, progress: Callable[[str], None] | None = None) -> None:
    """Install what is missing of `packages`, as root where there is apt-get. Does nothing when all are there.

    Args:
        packages: what must be there.
        progress: called with each line that apt-get prints.

    Raises:
        ToolError: some are missing and cannot be installed from here, or apt-get failed.
    """
    missing = missing_packages(packages)
    if not missing:
        return
    names = [package.name for package in missing]
    command = f"apt-get install --no-install-recommends {' '.join(names)}"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ToolError(
            "distribution packages are missing",
            got=", ".join(f"{package.name} ({package.reason})" for package in missing),
            hint=f"as root: {command} (or what your distribution calls them)",
        )
    # The lists may be old or absent; installing first spares the update where they are not.
    if _apt_get(["install", "--yes", "--no-install-recommends", *names], progress) != 0:
        _apt_get(["update"], progress)
        _apt_get(["install", "--yes", "--no-install-recommends", *names], progress)
    still_missing = [package.name for package in missing_packages(missing)]
    if still_missing:
        raise ToolError(
            "apt-get could not install what is missing",
            got=", ".join(still_missing),
            hint=f"see its messages above; is there a network? Then: {command}",
        )


def _apt_get(arguments: list[str], progress: Callable[[str], None] | None) -> int:
    """Run apt-get without questions, hand its lines to `progress`, return its exit status."""
    environment = {**download_environment(), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if progress is not None:
                progress(line.rstrip())
    return process.returncode
