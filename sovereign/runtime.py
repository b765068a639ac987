"""The content-addressed Python runtime that tools/setup.py makes, as pods of the embedded node see it.

A runtime never changes: new code or a new lock makes a new folder, so that nothing moves under a running pod.
This module only reads it. Standard library only, since tools/setup.py imports it before anything is installed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from sovereign.errors import ToolError
from sovereign.files import json_object

RUNTIME_FILE = "runtime.json"
"""Name of the description in a runtime's folder: digest, env (folder), python_prefix (folder)."""


@dataclass(frozen=True)
class Runtime:
    """A runtime that pods can use: every path is the same in the pod as on the host."""

    python: Path
    """The runtime's Python executable."""
    digest: str
    """What it was made from: lock, Python and source files; 16 hex digits."""
    binds: tuple[Path, ...]
    """The host folders that a pod needs to run it, none of them below another: /usr, Python, packages, the runtime."""


def current_runtime() -> Runtime:
    """The runtime that this process runs from.

    Raises:
        ToolError: this Python is not one of a runtime (a developer's own environment, for example), or the
            runtime is damaged; without one there is nothing that pods of the embedded node could run.
    """
    return read_runtime(Path(sys.prefix))


def read_runtime(folder: Path) -> Runtime:
    """The runtime in `folder`.

    Raises:
        ToolError: there is none, or parts of it are gone.
    """
    hint = "run `make setup`, then the `sovereign` whose path it prints"
    try:
        text = (folder / RUNTIME_FILE).read_bytes()
    except FileNotFoundError:
        raise ToolError("this Python is not a runtime that pods can use", got=folder, hint=hint) from None
    again = f"delete {folder} and {hint}"
    description = json_object(text, folder / RUNTIME_FILE, ToolError, hint=again)
    if missing := {"digest", "env", "python_prefix"} - description.keys():
        raise ToolError(f"{folder / RUNTIME_FILE} is damaged", got=f"no {', '.join(sorted(missing))}", hint=again)
    folders = [Path("/usr"), Path(description["python_prefix"]), Path(description["env"]), folder]
    lost = [path for path in folders if not path.is_dir()]
    if lost:
        raise ToolError(f"the runtime {folder} has lost a folder it needs", got=f"{lost[0]} is gone", hint=hint)
    return Runtime(python=folder / "bin" / "python", digest=description["digest"], binds=_without_nested(folders))


def _without_nested(folders: list[Path]) -> tuple[Path, ...]:
    """`folders` resolved and sorted, without those that lie in another of them."""
    resolved = sorted({folder.resolve() for folder in folders})
    return tuple(path for path in resolved if not any(other in path.parents for other in resolved))
