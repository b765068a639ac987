"""Large plans: memory against DeepSpeed's estimators, goodput against a simulation, and the tables in the documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sovereign.goodput import CheckpointTimes, goodput, time_between_interruptions_s
from sovereign.memory import model_state_bytes
from training.scale import deepspeed_state_bytes, draw, interval_s, shipped_plans, simulate, tables, times_of

PLANS = {one.profile: one for one in shipped_plans()}
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("profile", "stage", "tolerance"), [("site", 2, 0.01), ("nation", 3, 0.1)])
def test_memory_is_what_deepspeed_estimates(profile: str, stage: int, tolerance: float) -> None:
    """Stage 3 counts four bytes more for each parameter: gradients are held twice during the optimizer's step."""
    one = PLANS[profile]
    assert one.recipe.zero_stage == stage
    states = model_state_bytes(one.model, stage, one.recipe.world_size, one.recipe.precision)
    assert states == pytest.approx(deepspeed_state_bytes(one), rel=tolerance)
    assert states < one.estimates.memory_per_device_gb * 1e9


@pytest.mark.parametrize(
    ("interval", "times", "between_s"),
    [
        (600.0, CheckpointTimes(10, 20, 30), 10_000.0),
        (3000.0, CheckpointTimes(100, 0, 0), 5_000.0),
        (100.0, CheckpointTimes(1, 300, 50), 3_000.0),
    ],
)
def test_simulated_runs_are_as_the_formula_says(interval: float, times: CheckpointTimes, between_s: float) -> None:
    """Many interruptions in each run, so that its beginning and end hardly count."""
    found = simulate(interval, times, between_s, 300 * between_s, seed=3, runs=50)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - goodput(interval, times, between_s)) < 4 * error + 0.003


def test_without_interruptions_only_checkpoints_take_time() -> None:
    found = simulate(100.0, CheckpointTimes(10, 0, 0), 1e12, 1000.0, seed=0, runs=2)
    assert found.tolist() == [1000 / 1100] * 2


@pytest.mark.parametrize("profile", PLANS)
def test_the_plans_interval_beats_a_thousand_steps(profile: str) -> None:
    """A thousand steps were the rule before."""
    one = PLANS[profile]
    step_s = one.recipe.batch_tokens / one.estimates.tokens_per_s
    between_s = time_between_interruptions_s(one.estimates.num_gpus)
    assert one.estimates.goodput == pytest.approx(goodput(interval_s(one), times_of(one), between_s))
    assert one.estimates.goodput > goodput(1000 * step_s, times_of(one), between_s)


def test_the_documents_tables_are_current() -> None:
    assert tables(list(PLANS.values())) in (DOCS / "scale.md").read_text(encoding="utf-8"), (
        "python -m training.scale makes them"
    )


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "goodput.png"
    draw(list(PLANS.values()), path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 150_000
    assert (DOCS / "goodput.png").stat().st_size < 150_000
