"""Times what people wait for, on this machine, with the smallest profile; prints one JSON line for each figure.

    python tools/bench.py [PROFILE]     default: templates/profiles/ci.yaml; nothing is left behind

Figures of a shared machine move by 30 %: compare runs that were made in turn, never single ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sovereign.profile import load_profile
from sovereign.stages import STAGES, load_stage, read_receipt
from sovereign.store import open_store

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 3


def seconds(command: list[str | Path]) -> float:
    """Wall-clock time of a command that must succeed."""
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def write(name: str, **figures: object) -> None:
    print(json.dumps({"name": name, **figures}), flush=True)


def commands(profile: Path) -> None:
    """The commands that should feel instant: best and worst of some runs."""
    python = Path(sys.executable)
    wanted: dict[str, list[str | Path]] = {
        "second set-up": [python, ROOT / "tools" / "setup.py"],
        "sovereign --help": [python.parent / "sovereign", "--help"],
        "sovereign plan": [python.parent / "sovereign", "plan", profile],
        "import of torch, deepspeed, transformers": [python, "-c", "import torch, deepspeed, transformers"],
    }
    for name, command in wanted.items():
        runs = [seconds(command) for _ in range(REPEATS)]
        write(name, best_s=round(min(runs), 3), worst_s=round(max(runs), 3))


def stages(path: Path) -> None:
    """Every stage once, as a process over a store that is a folder; start of the process included."""
    profile = load_profile(path)
    with tempfile.TemporaryDirectory() as folder:
        url = (Path(folder) / "store").as_uri()
        for name in STAGES:
            runner: list[str | Path] = [sys.executable, "-m", "sovereign.stages", "run", name, "--profile", path]
            taken_s = seconds([*runner, "--store", url, "--workdir", Path(folder) / "work" / name])
            receipt = read_receipt(open_store(url), load_stage(name), profile.name)
            write(f"stage {name}", process_s=round(taken_s, 3), metrics=receipt.metrics if receipt else None)


def main() -> None:
    profile = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "templates" / "profiles" / "ci.yaml").resolve()
    commands(profile)
    stages(profile)


if __name__ == "__main__":
    main()
