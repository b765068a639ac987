"""Properties of the plan over all profiles, and the figures of the shipped ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sovereign.errors import PlanError
from sovereign.layout import memory_of
from sovereign.memory import memory_bytes_per_device
from sovereign.plan import Plan, plan
from sovereign.profile import Profile, load_profile
from sovereign.resources import data_path

SHIPPED = sorted(data_path("templates").joinpath("profiles").glob("*.yaml"))
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
GPUS = ("A100", "H100", "H200", "B200")

_hardware = st.fixed_dictionaries(
    {
        "nodes": st.integers(1, 5000),
        "cpus_per_node": st.integers(1, 512),
        "memory_gb_per_node": st.floats(1, 4096),
        "storage_tb": st.floats(0.001, 1e5),
    }
)
_kinds = st.just({"gpus_per_node": 0, "accelerator": "cpu"}) | st.fixed_dictionaries(
    {"gpus_per_node": st.integers(1, 16), "accelerator": st.sampled_from(GPUS)}
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any profile, sensible or not; sizes are drawn by order of magnitude."""
    embedded = {"kind": "embedded"}
    elsewhere = {"kind": "kubeconfig", "path": "/k", "context": "c", "image": "i"}
    hardware = draw(_hardware) | draw(_kinds)
    target = draw(st.sampled_from([embedded, elsewhere]))
    if target is embedded:
        hardware["nodes"] = 1
    return Profile.model_validate(
        {
            "apiVersion": "sovereign/v1",
            "name": "test",
            "target": target,
            "hardware": hardware,
            "corpus": {"demonstration": {}, "tokens": 10 ** draw(st.floats(3, 14))},
            "model": {
                "parameters": 10 ** draw(st.floats(5, 12.3)),
                "vocab_size": draw(st.integers(512, 300_000)),
                "sequence_length": 2 ** draw(st.integers(6, 17)),
            },
            "training": {
                "tokens": 10 ** draw(st.floats(3, 14)),
                "batch_tokens": draw(st.none() | st.integers(64, 2**24)),
                "learning_rate": draw(st.none() | st.floats(1e-6, 0.1)),
                "pods": draw(st.integers(1, 16)),
                "threads_per_pod": draw(st.integers(1, 16)),
                "zero_stage": draw(st.sampled_from([None, None, 1, 2, 3])),
                "keep_checkpoints": draw(st.integers(2, 10)),
                "keep_every_steps": draw(st.none() | st.integers(1, 10**6)),
            },
        }
    )


def with_hardware(profile: Profile, **changes: Any) -> Profile:
    data = profile.model_dump()
    data["hardware"] |= changes
    return Profile.model_validate(data)


def plan_or_none(profile: Profile) -> Plan | None:
    try:
        return plan(profile)
    except PlanError:
        return None


def planned(profile: Profile) -> Plan:
    """Its plan; a profile that is refused is not looked at."""
    result = plan_or_none(profile)
    assume(result is not None)
    assert result is not None
    return result


@SETTINGS
@given(profiles())
def test_any_profile_has_a_plan_or_a_refusal_that_says_what_would_fit(profile: Profile) -> None:
    try:
        plan(profile)
    except PlanError as error:
        assert error.got is not None
        assert error.expected is not None


@SETTINGS
@given(profiles(), st.integers(1, 5000))
def test_more_machines_never_take_longer(profile: Profile, more: int) -> None:
    assume(profile.target.kind == "kubeconfig")
    result = planned(profile)
    larger = planned(with_hardware(profile, nodes=profile.hardware.nodes + more))  # too many for the batch: refused
    assume(result.recipe.num_tokens == larger.recipe.num_tokens)
    assert larger.estimates.days <= result.estimates.days * (1 + 1e-9)


@SETTINGS
@given(profiles(), st.integers(1, 48))
def test_more_gpus_or_cores_in_a_machine_never_take_longer(profile: Profile, more: int) -> None:
    result = planned(profile)
    key = "gpus_per_node" if profile.hardware.gpus_per_node else "cpus_per_node"
    larger = planned(with_hardware(profile, **{key: getattr(profile.hardware, key) + more}))
    assume(result.recipe.num_tokens == larger.recipe.num_tokens)
    assert larger.estimates.days <= result.estimates.days * (1 + 1e-9)


@SETTINGS
@given(profiles())
def test_memory_is_never_exceeded(profile: Profile) -> None:
    result = planned(profile)
    estimates, quota = result.estimates, result.quota
    assert estimates.memory_per_device_gb <= estimates.memory_limit_gb
    assert quota.num_pods * quota.pod_memory_gb <= quota.memory_gb
    assert quota.memory_gb <= profile.hardware.nodes * profile.hardware.memory_gb_per_node
    assert (
        quota.num_pods * quota.pod_cpu_m
        <= quota.cpu_m
        <= 1000 * profile.hardware.nodes * (profile.hardware.cpus_per_node)
    )
    assert quota.num_pods * quota.pod_gpus == quota.gpus
    assert estimates.storage_gb <= estimates.storage_limit_gb
    if not profile.hardware.gpus_per_node:
        assert estimates.memory_per_device_gb < quota.pod_memory_gb


@pytest.mark.parametrize("pods", [1, 2])
def test_memory_on_cpu_holds_the_copy_that_a_checkpoint_is_written_from(pods: int) -> None:
    document = {
        "apiVersion": "sovereign/v1",
        "name": "tiny",
        "hardware": {"cpus_per_node": 8, "memory_gb_per_node": 64},
    }
    document |= {"corpus": {"demonstration": {"facts": 10}}, "model": {"parameters": 6e7, "sequence_length": 64}}
    training_of = {"tokens": 1e6, "batch_tokens": 128, "pods": pods, "zero_stage": 1}
    profile = Profile.model_validate(document | {"training": training_of})
    result = plan(profile)
    recipe = result.recipe
    memory = dataclasses.replace(
        memory_of(profile), micro_batch=recipe.micro_batch, checkpointing=recipe.activation_checkpointing
    )
    training = memory_bytes_per_device(result.model, memory)
    copied = result.estimates.memory_per_device_gb * 1e9 - training
    assert copied == pytest.approx(12 * result.num_parameters / pods)


@SETTINGS
@given(profiles())
def test_recipe_adds_up(profile: Profile) -> None:
    result = planned(profile)
    recipe, shape = result.recipe, result.model
    assert recipe.world_size * recipe.micro_batch * recipe.grad_accumulation * shape.sequence_length == (
        recipe.batch_tokens
    )
    assert recipe.num_tokens == recipe.num_steps * recipe.batch_tokens
    assert abs(recipe.num_tokens - profile.training.tokens) <= recipe.batch_tokens / 2
    hours = recipe.num_tokens / result.estimates.tokens_per_s / 3600
    assert result.estimates.days * 24 == pytest.approx(hours)
    assert sum(phase.num_steps for phase in recipe.phases) == recipe.num_steps
    assert 0 < recipe.learning_rate < 1
    assert shape.num_heads % shape.num_kv_heads == 0
    assert result.num_parameters == shape.num_parameters


@SETTINGS
@given(profiles())
def test_a_wished_zero_stage_is_taken_or_refused(profile: Profile) -> None:
    result = planned(profile)
    assert profile.training.zero_stage in (None, result.recipe.zero_stage)


@SETTINGS
@given(profiles(), st.integers(1, 20))
def test_checkpoints_that_stay_take_their_room(profile: Profile, more: int) -> None:
    result = planned(profile)
    kept = profile.training.keep_checkpoints + more
    training = profile.training.model_copy(update={"keep_checkpoints": kept})
    larger = plan_or_none(profile.model_copy(update={"training": training}))
    assume(larger is not None)
    assert larger is not None
    grown = larger.estimates.storage_gb - result.estimates.storage_gb
    assert grown == pytest.approx(more * result.estimates.checkpoint_gb, rel=1e-3, abs=1e-6)


@SETTINGS
@given(profiles())
def test_json_round_trip(profile: Profile) -> None:
    result = planned(profile)
    assert Plan.model_validate_json(result.model_dump_json()) == result
    assert plan(profile) == result


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_have_a_plan(path: Path) -> None:
    result = plan(load_profile(path))
    wanted = load_profile(path).model.parameters
    assert wanted is not None
    assert wanted / 1.3 < result.num_parameters < wanted * 1.3


def test_parameters_are_counted_as_torch_counts_them() -> None:
    # Qwen3ForCausalLM of transformers with this shape has so many.
    assert plan(load_profile(data_path("templates") / "profiles" / "demo.yaml")).num_parameters == 1_000_832


def test_published_shapes_keep_their_published_size() -> None:
    site = load_profile(data_path("templates") / "profiles" / "site.yaml")
    data = site.model_dump()
    data["model"] |= {"vocab_size": 151_936, "parameters": 8.19e9}
    qwen3_8b = plan(Profile.model_validate(data))
    assert qwen3_8b.num_parameters == 8_190_735_360  # https://huggingface.co/Qwen/Qwen3-8B


def test_eight_billion_on_sixty_four_gpus_is_near_what_was_published() -> None:
    estimates = plan(load_profile(data_path("templates") / "profiles" / "site.yaml")).estimates
    # 64 x H200, 8B, FP8: 10,753 tokens/s each (torchtitan, 2025-06); bf16 has half the peak.
    assert 10_753 / 2 * 0.9 < estimates.tokens_per_s / estimates.num_gpus < 10_753


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"parameters": 1e12}}, ["hardware.nodes of", "or model.parameters of"]),
        ({"hardware": {"storage_tb": 0.01}}, ["hardware.storage_tb of "]),
        (
            {"model": {"parameters": 7e10}, "training": {"zero_stage": 1}},
            ["even with ZeRO-1", "training.zero_stage of 3"],
        ),
        ({"target": {"kind": "embedded"}}, ["hardware.nodes of 1"]),
        (
            {"training": {"batch_tokens": 8192}},
            ["2 sequences of 4,096: enough for 2 ranks", "training.batch_tokens of"],
        ),
    ],
)
def test_refusals_of_the_site_say_what_would_fit(changes: dict[str, Any], words: list[str]) -> None:
    data = load_profile(data_path("templates") / "profiles" / "site.yaml").model_dump()
    for section, values in changes.items():
        data[section] = values if section == "target" else data[section] | values
    with pytest.raises(PlanError) as caught:
        plan(Profile.model_validate(data))
    assert all(word in str(caught.value) for word in words)
