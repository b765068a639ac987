"""The GPU's benchmark in miniature, on CPU: every section runs, and a failure of one does not stop the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.run import DEADLINES_S, compared
from benchmarks.gpu.setting import make_plan

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of the script."""
    environment = os.environ | {"OUT": str(folder), "PYTHON": sys.executable, "WHEELS": str(folder / "none")}
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh", "--tiny", *options], env=environment, check=False)
    return done.returncode, json.loads((folder / "gpu.json").read_text())


def test_every_section_runs_in_miniature(tmp_path: Path) -> None:
    code, found = run(tmp_path, "--limit", "250")
    sections = found["sections"]
    assert {name: one["status"] for name, one in sections.items()} == dict.fromkeys(DEADLINES_S, "measured"), sections
    assert code == 0
    for name in ("train", "plain", "masked", "cudnn"):
        assert sections[name]["tokens_per_s"] > 0
        assert sections[name]["parameters"] == sections["train"]["parameters"]
    assert found["compared"]["against_plain_loop"] > 0
    assert sections["loss"]["loss_off"] < 1e-2
    assert sections["loss"]["weight_gradient_off"] < 2e-2
    assert sections["resume"]["is_bit_exact"], sections["resume"]
    assert sections["fault"]["exit_code"] == 1
    assert "IndexError" in sections["fault"]["output"]


def test_a_section_without_time_is_recorded(tmp_path: Path) -> None:
    code, found = run(tmp_path, "--limit", "1", "--only", "machine", "fault")
    assert code == 1
    assert {one["status"] for one in found["sections"].values()} == {"no time left"}
    assert found["compared"] == compared({})


def test_the_plan_is_that_of_the_goal() -> None:
    resolved = make_plan(tiny=False)
    assert resolved.num_parameters == pytest.approx(1.2e9, rel=0.05)
    assert resolved.model.sequence_length == 4096
    assert (resolved.recipe.precision, resolved.recipe.world_size) == ("bf16", 1)
    assert resolved.recipe.micro_batch >= 4
    assert sum(DEADLINES_S[name] for name in ("machine", "train", "plain", "masked", "loss", "resume")) <= 510
