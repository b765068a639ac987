"""The learning rate and the phases of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.errors import PlanError
from sovereign.plan import Recipe, plan
from sovereign.profile import Profile, load_profile
from sovereign.resources import data_path
from training.schedule import learning_rate, phase_at

DEMO = load_profile(data_path("templates") / "profiles" / "demo.yaml")


def recipe_of(**training: Any) -> Recipe:
    """The recipe of the demonstration with other values in its section `training`."""
    data = DEMO.model_dump()
    data["training"] |= training
    return plan(Profile.model_validate(data)).recipe


@settings(deadline=None)
@given(num_steps=st.integers(1, 5000))
def test_without_phases_it_is_wsd_to_the_last_bit(num_steps: int) -> None:
    recipe = recipe_of(tokens=num_steps * 2048)
    assert recipe.num_steps == num_steps
    warmup_steps, decay_steps = max(1, min(2000, num_steps // 20)), max(1, num_steps * 3 // 10)
    for step in range(num_steps):
        closed_form = max(0.0, min(1.0, (step + 1) / warmup_steps, (num_steps - step) / decay_steps))
        assert learning_rate(recipe, step) == recipe.learning_rate * closed_form


spans = st.fixed_dictionaries(
    {"start": st.floats(0, 1), "end": st.floats(0, 1), "shape": st.sampled_from(["linear", "cosine", "sqrt"])}
)


@settings(deadline=None)
@given(phases=st.lists(st.tuples(st.integers(1, 300), spans), min_size=1, max_size=5))
def test_phases_move_the_rate_within_their_spans(phases: list[tuple[int, dict[str, Any]]]) -> None:
    given = [{"tokens": steps * 2048, "learning_rate": span} for steps, span in phases]
    recipe = recipe_of(tokens=sum(steps for steps, _ in phases) * 2048, phases=given)
    assert [phase.num_steps for phase in recipe.phases] == [steps for steps, _ in phases]
    first = 0
    for steps, span in phases:
        rates = [learning_rate(recipe, step) / recipe.learning_rate for step in range(first, first + steps)]
        low, high = sorted((span["start"], span["end"]))
        assert all(low - 1e-9 <= rate <= high + 1e-9 for rate in rates)
        assert rates == pytest.approx(sorted(rates, reverse=span["end"] < span["start"]))
        edge = rates[-1] if span["end"] > span["start"] else rates[0]
        assert edge == pytest.approx(high)
        first += steps
    with pytest.raises(IndexError):
        phase_at(recipe, first)


def test_the_shapes_are_those_that_were_published() -> None:
    """Half way down from 1 to 0: linear 1/2, cosine 1/2, the 1-sqrt rule 1 - sqrt(1/2)."""
    rates = {}
    for shape in ("linear", "cosine", "sqrt"):
        phases = [{"tokens": 2048 * 100, "learning_rate": {"start": 1, "end": 0, "shape": shape}}]
        recipe = recipe_of(tokens=2048 * 100, phases=phases)
        rates[shape] = [learning_rate(recipe, step) / recipe.learning_rate for step in (25, 50)]
    assert rates["linear"] == pytest.approx([0.75, 0.5])
    assert rates["cosine"] == pytest.approx([0.853553, 0.5], abs=1e-6)
    assert rates["sqrt"] == pytest.approx([0.5, 0.292893], abs=1e-6)


def test_a_phase_begins_with_the_step_nearest_to_its_tokens() -> None:
    phases = [{"tokens": 3000}, {"tokens": 3000, "sequence_length": 64}, {"tokens": 4240}]
    recipe = recipe_of(tokens=10240, phases=phases)
    assert [phase.num_steps for phase in recipe.phases] == [1, 2, 2]
    assert [phase_at(recipe, step) for step in (0, 1, 2, 4)] == [
        (recipe.phases[0], 0),
        (recipe.phases[1], 0),
        (recipe.phases[1], 1),
        (recipe.phases[2], 1),
    ]
    assert [phase.sequence_length for phase in recipe.phases] == [256, 64, 256]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"tokens": 4096}, {"tokens": 100}, {"tokens": 6044}], "shorter than half a step"),
        ([{"tokens": 10240, "sequence_length": 100}], "does not divide"),
    ],
)
def test_phases_that_cannot_be_are_refused_by_the_plan(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        recipe_of(tokens=10240, phases=phases)


def test_phases_that_do_not_add_up_are_refused_by_the_profile() -> None:
    with pytest.raises(ValueError, match=r"add up to 5000, not to training\.tokens 10240"):
        recipe_of(tokens=10240, phases=[{"tokens": 5000}])
