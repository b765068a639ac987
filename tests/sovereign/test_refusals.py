"""What a refusal proposes gives a plan; what is rounded or far from the wish is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sovereign.errors import PlanError
from sovereign.layout import share_out
from sovereign.obstacles import Changes
from sovereign.plan import Plan, plan
from sovereign.profile import Profile, load_profile
from sovereign.refusals import RefusalError
from sovereign.resources import data_path
from tests.sovereign.test_plan import profiles

SITE = load_profile(data_path("templates") / "profiles" / "site.yaml").model_dump()
CPU = {
    "apiVersion": "sovereign/v1",
    "name": "tiny",
    "hardware": {"cpus_per_node": 16, "memory_gb_per_node": 64},
    "corpus": {"demonstration": {"facts": 10}},
}


def make(document: dict[str, Any], **sections: dict[str, Any]) -> Profile:
    """The document with other values in its sections."""
    merged = {name: document.get(name, {}) | values for name, values in sections.items()}
    return Profile.model_validate(document | merged)


def changed(profile: Profile, changes: Changes) -> Profile:
    """The profile as a person would edit it, validated."""
    document = profile.model_dump()
    for place, value in changes.items():
        section, name = place.split(".")
        document[section][name] = value
    return Profile.model_validate(document)


def refusal_of(profile: Profile) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        plan(profile)
    return caught.value


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(profiles(), st.booleans())
def test_t18_every_proposal_of_a_refusal_gives_a_plan(profile: Profile, masks: bool) -> None:
    training = profile.training.model_copy(update={"document_masking": masks})
    profile = profile.model_copy(update={"training": training})
    try:
        plan(profile)
        assume(False)
    except RefusalError as error:
        refusal = error
    assert refusal.proposals, str(refusal)
    for changes in refusal.proposals:
        assert plan(changed(profile, changes)).num_parameters > 0, changes
    first = refusal.proposals[0]
    assert all(place in str(refusal.expected) for place in first)


def test_t18_all_obstacles_are_told_at_once() -> None:
    profile = make(SITE, model={"parameters": 7e10}, training={"batch_tokens": 4096}, hardware={"storage_tb": 0.5})
    refusal = refusal_of(profile)
    assert len(refusal.obstacles) == 2
    assert "less than one sequence for each of 64 ranks" in str(refusal)
    assert "do not fit in the storage" in str(refusal)


def test_t18_logits_that_fill_a_gpu_alone_have_a_number() -> None:
    model = {"parameters": 1e8, "vocab_size": 300_000, "sequence_length": 2**18}
    profile = make(SITE, model=model, hardware={"accelerator": "A100"})
    refusal = refusal_of(profile)
    places = {place for changes in refusal.proposals for place in changes}
    assert {"model.sequence_length", "model.vocab_size"} & places


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (make(SITE, training={"batch_tokens": 8192}), "enough for 2 ranks"),
        (make(SITE, training={"batch_tokens": 64 * 4096 - 1}), "enough for 63 ranks"),
        (make(SITE, model={"parameters": 2.8e9}, hardware={"nodes": 12_984}), "enough for 2,048 ranks"),
        (
            make(
                CPU,
                model={"parameters": 4e5, "sequence_length": 256},
                training={"tokens": 1e6, "batch_tokens": 1024, "pods": 8},
            ),
            "enough for 4 ranks",
        ),
    ],
    ids=["2 of 64", "63 of 64", "2.8B on 103,872", "1,024 tokens on 8 pods"],
)
def test_t13_a_batch_below_a_sequence_for_each_rank_is_refused(profile: Profile, words: str) -> None:
    refusal = refusal_of(profile)
    assert words in str(refusal)
    keys = {"training.pods", "hardware.nodes", "training.batch_tokens"}
    assert all(keys & changes.keys() for changes in refusal.proposals[:1])


def test_t13_a_small_budget_is_met() -> None:
    result = plan(make(CPU, model={"parameters": 4e5, "sequence_length": 256}, training={"tokens": 500}))
    assert result.recipe.num_tokens == 512
    assert any("training.tokens of 500 is 512" in note for note in result.notes)


@pytest.mark.parametrize("tokens", [100, 2047])
def test_t13_a_budget_below_a_step_is_refused(tokens: float) -> None:
    profile = make(
        CPU, model={"parameters": 4e5, "sequence_length": 256}, training={"tokens": tokens, "batch_tokens": 2048}
    )
    assert "training.tokens is less than one step" in str(refusal_of(profile))


def test_t13_time_and_cost_are_those_of_the_steps_that_are_trained() -> None:
    few = plan(make(SITE, training={"tokens": 1.5 * 4_194_304}))
    seconds = few.estimates.days * 86_400
    assert seconds == pytest.approx(few.recipe.num_tokens / few.estimates.tokens_per_s)


@given(st.integers(1, 1_000_000), st.integers(64, 2**24), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_t13_a_plan_trains_what_was_asked_or_says_otherwise(tokens: int, batch: int, pods: int) -> None:
    profile = make(
        CPU,
        model={"parameters": 4e5, "sequence_length": 64},
        training={"tokens": tokens, "batch_tokens": batch, "pods": pods},
    )
    try:
        result = plan(profile)
    except PlanError:
        return
    assert 2 / 3 - 1e-9 <= result.recipe.batch_tokens / batch <= 1.5
    assert 0.5 <= result.recipe.num_tokens / tokens <= 1.5
    if result.recipe.batch_tokens != batch:
        assert any(note.startswith("training.batch_tokens of") for note in result.notes)


def test_t16_eight_billion_on_24_gpus_has_a_micro_batch_that_fills_them() -> None:
    result = plan(make(SITE, model={"parameters": 8e9}, hardware={"nodes": 3}))
    recipe = result.recipe
    assert recipe.micro_batch >= 3
    assert recipe.batch_tokens == 24 * recipe.micro_batch * recipe.grad_accumulation * 4096
    assert abs(recipe.batch_tokens / 2**22 - 1) < 0.25
    assert any("the rule's batch of" in note for note in result.notes)


@given(st.floats(1, 400), st.integers(1, 64))
def test_t16_no_rank_computes_one_by_one_where_many_fit(per_rank: float, largest: int) -> None:
    largest = min(largest, max(1, round(per_rank + 0.5)))
    micro_batch, accumulations = share_out(per_rank, largest, is_asked=False)
    assert micro_batch <= largest
    assert 2 * micro_batch >= min(largest, round(per_rank)) or largest <= 4
    assert abs(micro_batch * accumulations / per_rank - 1) <= 0.5


def test_t16_a_batch_that_was_asked_for_is_met_and_what_is_slow_about_it_said() -> None:
    result = plan(make(SITE, hardware={"nodes": 3}, training={"batch_tokens": 43 * 24 * 4096}))
    assert result.recipe.batch_tokens == 43 * 24 * 4096
    assert any("another training.batch_tokens trains faster" in note for note in result.notes)


@pytest.mark.parametrize(
    ("size", "rows", "is_far"),
    [(1.7e12, 131_072, True), (1.7e11, 131_072, False), (1e5, 50_000, True), (1.2e11, 131_072, False)],
)
def test_t17_a_size_far_from_the_ladder_is_said(size: float, rows: int, is_far: bool) -> None:
    result = planned_somewhere(size, rows)
    assert any(note.startswith("model.parameters of") for note in result.notes) == is_far


def planned_somewhere(size: float, rows: int) -> Plan:
    """On as many machines as it needs."""
    model = {"parameters": size, "vocab_size": rows, "sequence_length": 1024}
    hardware = {"nodes": 1000, "accelerator": "B200", "storage_tb": 100_000}
    return plan(make(SITE, model=model, hardware=hardware, training={"tokens": 1e12, "batch_tokens": 2**24}))


@given(st.floats(6e10, 5e11))
@settings(max_examples=30, deadline=None)
def test_t17_large_sizes_are_met_within_a_half(size: float) -> None:
    result = planned_somewhere(size, 131_072)
    assert size / 1.5 < result.num_parameters < size * 1.5
