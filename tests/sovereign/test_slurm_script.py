"""The batch script asks for what a machine of the plan has, and writes its log where the site is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import PlanError, ProfileError
from sovereign.plan import plan
from sovereign.profile import Profile
from sovereign.render import render_text
from sovereign.workload import slurm_context


def make(nodes: int, cpus: int, pods: int, threads: int, memory_gb: float = 64) -> Profile:
    return Profile.model_validate(
        {
            "apiVersion": "sovereign/v1",
            "name": "tiny",
            "target": {"kind": "kubeconfig", "path": "/k", "context": "c", "image": "i"},
            "hardware": {"nodes": nodes, "cpus_per_node": cpus, "memory_gb_per_node": memory_gb},
            "corpus": {"demonstration": {"facts": 10}},
            "model": {"parameters": 4e5, "sequence_length": 64},
            "training": {"tokens": 1e6, "batch_tokens": 4096, "pods": pods, "threads_per_pod": threads},
        }
    )


def script(profile: Profile, folder: Path = Path("/data")) -> tuple[str, dict[str, Any]]:
    context = slurm_context(profile, plan(profile), python="python", profile_path=Path("/p.yaml"), data_dir=folder)
    return render_text("training/slurm.sbatch.j2", context), context["slurm"]


@pytest.mark.parametrize(
    ("nodes", "cpus", "pods", "threads"),
    [(1, 4, 1, 16), (1, 4, 4, 4), (4, 4, 7, 2), (3, 8, 2, 8), (2, 2, 4, 1), (5, 64, 64, 3)],
)
def test_t21_the_script_asks_for_no_more_than_the_machines_have(nodes: int, cpus: int, pods: int, threads: int) -> None:
    profile = make(nodes, cpus, pods, threads)
    text, slurm = script(profile)
    assert slurm["nodes"] <= nodes
    assert slurm["ranks_per_node"] * slurm["cpus_per_rank"] <= cpus
    assert slurm["nodes"] * slurm["ranks_per_node"] >= pods > (slurm["nodes"] - 1) * slurm["ranks_per_node"]
    assert f"#SBATCH --ntasks={pods}\n" in text
    assert int(re.findall(r"--mem=(\d+)M", text)[0]) * 2**20 <= profile.hardware.memory_gb_per_node * 1e9
    assert plan(profile).recipe.threads <= cpus


def test_t21_more_ranks_than_cores_are_refused() -> None:
    with pytest.raises(PlanError, match="a core of its own") as caught:
        script(make(1, 4, 8, 1))
    assert "training.pods of at most 4" in str(caught.value)


@pytest.mark.parametrize("name", ["a%jb", "100%", "%%", "%n of 5 %u"])
def test_t21_a_percent_sign_in_the_folder_is_no_pattern_of_slurm(name: str) -> None:
    text, _ = script(make(1, 4, 1, 1), Path("/srv") / name)
    output = re.findall(r"^#SBATCH --output=(.*)$", text, re.MULTILINE)[0].strip("'")
    written = re.sub(r"%(.)", lambda match: {"%": "%", "j": "42"}[match[1]], output)
    assert written == f"/srv/{name}/logs/train-42.log"


def test_t21_a_path_that_slurm_cannot_write_to_is_refused() -> None:
    with pytest.raises(ProfileError, match="backslash"):
        script(make(1, 4, 1, 1), Path("/srv/a\\b"))


def test_t21_the_notice_is_one_that_slurm_takes() -> None:
    _, slurm = script(make(1, 4, 1, 1))
    assert 0 < slurm["grace_s"] <= 65_535
