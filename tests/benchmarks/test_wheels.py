"""The packages that are carried to a GPU machine are all that it lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.gpu.wheels import CARRIED, EXPECTED, locked

ROOT = Path(__file__).parents[2]
IMPORTED = "benchmarks.gpu.run, benchmarks.gpu.resuming, training.engine, training.checkpoint, training.stored, pynvml"


def needed_by(names: tuple[str, ...]) -> set[str]:
    """These packages and all that they require, as they are installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        waiting += [re.split(r"[^A-Za-z0-9._-]", one)[0] for one in required if "extra ==" not in one]
    return found


def test_nothing_else_is_imported(tmp_path: Path) -> None:
    """With the carried packages, those of the machine and what these require: the benchmark can be imported."""
    for name in {*CARRIED} | needed_by(EXPECTED):
        for path in metadata.files(name) or []:
            top = path.parts[0]
            target = tmp_path / top
            if top not in ("..", "__pycache__") and not target.exists():
                target.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": f"{ROOT}:{tmp_path}", "DS_ACCELERATOR": "cpu"}
    code = f"import {IMPORTED}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_versions_are_those_of_the_lock() -> None:
    names = {one.partition("==")[0]: one.partition("==")[2] for one in locked()}
    assert set(names) == set(CARRIED)
    assert all(metadata.version(name) == version for name, version in names.items())
