"""Preflight: sound numerics pass; a wrong loss, clipping, rank or step does not."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign.errors import TrainingError
from sovereign.plan import Plan, plan
from sovereign.profile import load_profile
from sovereign.stages import load_stage, run_stage
from sovereign.store import open_store
from tests.training.conftest import Start
from training import preflight_checks
from training.preflight_plan import Check, make_rows, shrunk
from training.preflight_ranks import Case, Trace, train_cases

CPU = torch.device("cpu")
CASES = [Case(0), Case(1), Case(2), Case(3), Case(2, overlap_comm=True)]


@pytest.fixture(scope="module")
def resolved(profile_file: Path) -> Plan:
    """The tiny profile's plan."""
    return plan(load_profile(profile_file))


@pytest.fixture(scope="module")
def traces(start_training: Start, resolved: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Trace]:
    """What the engine really gives on two ranks."""
    folder = tmp_path_factory.mktemp("preflight")
    return dict(zip(CASES, train_cases(resolved, CASES, 2, folder, on_gpus=False), strict=True))


@pytest.fixture(scope="module")
def reference(resolved: Plan) -> preflight_checks.Reference:
    """What plain torch gives."""
    return preflight_checks.train_plainly(resolved, 2, CPU)


def failed(checks: list[Check]) -> list[str]:
    """Names of the checks that do not pass."""
    return [check.name for check in checks if not check.is_passed]


def test_the_engine_agrees_with_plain_torch(
    traces: dict[Case, Trace], reference: preflight_checks.Reference, resolved: Plan
) -> None:
    checks = list(preflight_checks.parity(traces, reference, 2))
    checks.append(preflight_checks.step_size(traces[Case(1)], reference, resolved.recipe))
    assert failed(checks) == []
    assert len(checks) == 10 and all(check.value is not None for check in checks)


def test_wrong_clipping_is_found(traces: dict[Case, Trace], resolved: Plan) -> None:
    recipe = resolved.recipe.model_copy(update={"gradient_clipping": 1e-6})
    other = preflight_checks.train_plainly(resolved.model_copy(update={"recipe": recipe}), 2, CPU)
    assert "ZeRO-1, 2 ranks: weights against plain AdamW" in failed(list(preflight_checks.parity(traces, other, 2)))


def test_a_lost_rank_is_found(
    traces: dict[Case, Trace], reference: preflight_checks.Reference, resolved: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference sees only the first rank's rows, as where the other's gradients were never added."""
    rows = make_rows(shrunk(resolved, zero_stage=0, world_size=2))
    monkeypatch.setattr(preflight_checks, "make_rows", lambda _plan: rows[:, : rows.shape[1] // 2])
    lost = preflight_checks.train_plainly(resolved, 2, CPU)
    assert "ZeRO-1, 2 ranks: losses and gradient norms against plain AdamW" in failed(
        list(preflight_checks.parity(traces, lost, 2))
    )


def test_a_wrong_step_size_and_differing_overlap_are_found(
    traces: dict[Case, Trace], reference: preflight_checks.Reference, resolved: Plan
) -> None:
    wrong = {name: value + 1e-4 for name, value in traces[Case(1)].first.items()}
    check = preflight_checks.step_size(replace(traces[Case(1)], first=wrong), reference, resolved.recipe)
    assert not check.is_passed
    overlap = Case(2, overlap_comm=True)
    raced = replace(traces[overlap], last={name: value * 1.001 for name, value in traces[overlap].last.items()})
    found = failed(list(preflight_checks.parity(traces | {overlap: raced}, reference, 2)))
    assert found == ["ZeRO-2, 2 ranks: weights with overlapping communication"]


def test_what_is_not_a_number_never_passes() -> None:
    assert not Check("loss", float("nan"), 1.0).is_passed
    assert Check("compiled", None, 1.0).is_passed, "the run does not use it"


def test_what_is_not_a_number_does_not_hide_behind_a_number(
    reference: preflight_checks.Reference, resolved: Plan
) -> None:
    sound, broken = reference.trace, {"model.norm.weight"}
    assert failed([*preflight_checks.parity({Case(1): sound}, reference, 2)]) == []
    assert preflight_checks.step_size(sound, reference, resolved.recipe).is_passed
    first = {name: value * math.nan if name in broken else value for name, value in sound.first.items()}
    assert not preflight_checks.step_size(replace(sound, first=first), reference, resolved.recipe).is_passed
    for changed in (
        replace(sound, losses=[*sound.losses[:-1], math.nan]),
        replace(sound, gradient_norms=[*sound.gradient_norms[:-1], math.nan]),
    ):
        found = failed(list(preflight_checks.parity({Case(1): changed}, reference, 2)))
        assert found == ["ZeRO-1, 2 ranks: losses and gradient norms against plain AdamW"]


def test_gradients_that_are_not_numbers_fail_beside_a_right_loss(
    resolved: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a broken kernel of the backward pass."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.nan

    right = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional, "cross_entropy", lambda *given, **named: Broken.apply(right(*given, **named))
    )
    assert "output head, masked labels: against float64" in failed(list(preflight_checks.head(resolved, CPU)))


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_wrong_output_head_is_found(factor: float, resolved: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *given, **named: factor * right(*given, **named))
    checks = list(preflight_checks.head(resolved, CPU)) + list(preflight_checks.bf16(resolved, CPU))
    assert failed(checks) == ([] if factor == 1 else ["output head, masked labels: against float64"])


@pytest.mark.drill
def test_the_stage_passes_here_and_blocks_where_a_kernel_is_wrong(
    start_training: Start, profile_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, profile = open_store(f"file://{tmp_path / 'store'}"), load_profile(profile_file)
    run_stage(load_stage("preflight"), profile, store, tmp_path / "work", io.StringIO())
    report = tmp_path / "store" / "models/tiny/preflight/report.json"
    checks = json.loads(report.read_text())
    assert all(check["passed"] for check in checks) and len(checks) == 15
    shutil.rmtree(report.parent)
    right = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *given, **named: 1.01 * right(*given, **named))
    with pytest.raises(TrainingError, match="checks of the numerics failed") as error:
        run_stage(load_stage("preflight"), profile, store, tmp_path / "work", io.StringIO())
    assert "output head, masked labels: against float64: 0.01, at most 0.0001: FAIL" in str(error.value)
    assert not all(check["passed"] for check in json.loads(report.read_text())), "the table is there on failure too"
    assert not (report.parent / "receipt.json").exists()
