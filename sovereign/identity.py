"""Which code and which environment make a result: digests that receipts name.

Both are the same in a checkout, a runtime (tools/setup.py) and an installed wheel of the same sources and packages, on
any machine; so a person can check out a commit, install the lock and compare.
"""

from __future__ import annotations

import functools
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import rfc8785

from sovereign import __version__
from sovereign.files import sha256_bytes, sha256_file
from sovereign.resources import data_path

DISTRIBUTION = "sovereign-ai"
"""Our own name among the installed packages; the code digest covers it."""
_PACKAGES = ("sovereign", "stacks", "training")
_DATA = ("templates",)
_SHORT = 12
"""Digits of a digest in `code_version`."""


@functools.cache
def code_digest() -> str:
    """Hex SHA-256 of the canonical JSON of {path: hex SHA-256} of our packages' and templates' files."""
    return sha256_bytes(rfc8785.dumps({name: sha256_file(path) for name, path in _files()}))


def _files() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).parent.parent
    for name in _PACKAGES:
        yield from _below(root / name, name, without="_data")  # where a wheel has templates
    for name in _DATA:
        yield from _below(data_path(name), name)


def _below(folder: Path, name: str, *, without: str = "") -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        is_derived = "__pycache__" in parts or any(part.startswith(".") for part in parts) or parts[0] == without
        if not is_derived and path.is_file():
            yield "/".join((name, *parts)), path


@functools.cache
def environment() -> dict[str, str]:
    """What the code runs on: Python, the kind of processor, and the version of every other installed package."""
    found: dict[str, str] = {}
    for package in distributions():
        found.setdefault(_normal(package.name), package.version)  # the first on the path is the one that is imported
    found.pop(DISTRIBUTION, None)
    return {
        "python": f"{sys.implementation.name} {platform.python_version()}",
        "machine": platform.machine(),
        **{f"package {name}": version for name, version in sorted(found.items())},
    }


def _normal(name: str) -> str:
    """A package's name as indexes compare it: https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def environment_digest() -> str:
    """Hex SHA-256 of the canonical JSON of `environment`."""
    return sha256_bytes(rfc8785.dumps(environment()))


def code_version() -> str:
    """Version of this kit with the first digits of both digests, in the form of PEP 440: for people and for keys."""
    return f"{__version__}+code.{code_digest()[:_SHORT]}.env.{environment_digest()[:_SHORT]}"


def identity() -> dict[str, object]:
    """All of it, as JSON values, for `sovereign version --json` and reports of faults."""
    return {
        "version": __version__,
        "code_digest": code_digest(),
        "environment_digest": environment_digest(),
        "environment": environment(),
    }
