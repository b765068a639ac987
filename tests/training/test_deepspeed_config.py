"""DeepSpeed's configuration: its own parser takes it, and finds nothing left for it to choose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from training.deepspeed_config import render

PLAIN = {
    "communication_data_type": "communication_data_type",
    "seq_parallel_communication_data_type": "seq_parallel_communication_data_type",
    "grad_accum_dtype": "data_types.grad_accum_dtype",
    "param_dtype": "data_types.param_dtype",
    "buffer_dtype": "data_types.buffer_dtype",
    "keep_in_fp32_modules": "data_types.keep_in_fp32_modules",
    "load_universal_checkpoint": "checkpoint.load_universal",
    "use_node_local_storage": "checkpoint.use_node_local_storage",
    "checkpoint_parallel_write_pipeline": "checkpoint.parallel_write.pipeline_stage",
    "torch_autocast_enabled": "torch_autocast.enabled",
    "data_efficiency_enabled": "data_efficiency.enabled",
} | {
    name: name
    for name in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "managed_gradient_accumulation",
        "steps_per_print",
        "dump_state",
        "disable_python_gc",
        "disable_allgather",
        "prescale_gradients",
        "gradient_predivide_factor",
        "gradient_allreduce_op",
        "gradient_clipping",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dataloader_drop_last",
        "log_level",
    )
}
"""Attributes of DeepSpeed's configuration object that are one value, and their places in ours."""

SECTIONS = {
    "zero_config": "zero_optimization",
    "bfloat16_config": "bf16",
    "activation_checkpointing_config": "activation_checkpointing",
    "checkpoint_config": "checkpoint",
    "timers_config": "timers.throughput",
}
"""Attributes that have several values, all of which we give."""

SWITCHED_OFF = {
    "float16_config": "fp16.enabled",
    "flops_profiler_config": "flops_profiler.enabled",
    "autotuning_config": "autotuning.enabled",
    "hybrid_engine": "hybrid_engine.enabled",
    "data_efficiency_config": "data_efficiency.enabled",
    "compile_config": "compile.deepcompile",
}
"""Features with a switch, which we set to off; what else they know does not matter then."""

MONITORS = ("tensorboard", "comet", "wandb", "csv_monitor")

ABSENT = {
    "optimizer_name": None,
    "optimizer_params": None,
    "optimizer_legacy_fusion": False,
    "scheduler_name": None,
    "scheduler_params": None,
    "weight_quantization_config": None,
    "torch_autocast_dtype": None,
    "torch_autocast_lower_precision_safe_modules": None,
    "use_data_before_expert_parallel_": False,
}
"""Features that begin with their key; we give none, so that the optimizer and the learning rate stay ours."""

DERIVED = {
    "global_rank",
    "world_size",
    "_param_dict",
    "zero_optimization_stage",
    "zero_enabled",
    "checkpoint_tag_validation_enabled",
    "checkpoint_tag_validation_fail",
}
"""What follows from the environment or from other attributes."""

UNUSED = {
    "pipeline": "only for a PipelineModule",
    "aio_config": "only for offloading to NVMe, which is None",
}


def resolve(profile: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """What we render for a process alone, the recipe, and DeepSpeed's configuration object."""
    from training.engine import deepspeed

    resolved = plan(load_profile(data_path("templates") / "profiles" / f"{profile}.yaml"))
    config = json.loads(json.dumps(render(resolved)))
    config["train_batch_size"] //= resolved.recipe.world_size
    return config, resolved.recipe.model_dump(), deepspeed.DeepSpeedConfig(config)


def at(config: dict[str, Any], place: str) -> Any:
    """The value at a dotted place; a KeyError where we say nothing."""
    value: Any = config
    for key in place.split("."):
        value = value[key]
    return value


def fields(value: Any) -> dict[str, Any]:
    """Names, as the JSON has them, and values of a part of DeepSpeed's configuration; deprecated ones left out."""
    if isinstance(value, BaseModel):
        found = {}
        for name, info in type(value).model_fields.items():
            extra = info.json_schema_extra
            if not (isinstance(extra, dict) and extra.get("deprecated")):
                found[info.alias or name] = plain(getattr(value, name))
        return found
    return {name: plain(one) for name, one in (value if isinstance(value, dict) else vars(value)).items()}


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return fields(value)
    if isinstance(value, Enum):
        return value.value
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(value, value) if value.__hash__ else value


def unsaid(config: dict[str, Any], parsed: Any) -> Iterator[str]:
    """What DeepSpeed resolves and we do not say, or say otherwise."""
    for name, value in vars(parsed).items():
        try:
            if name in PLAIN:
                agrees = plain(value) == at(config, PLAIN[name])
            elif name in SECTIONS:
                given = at(config, SECTIONS[name])
                agrees = all(given[key] == one for key, one in fields(value).items())
            elif name in SWITCHED_OFF:
                switch = SWITCHED_OFF[name].rpartition(".")[2]
                agrees = at(config, SWITCHED_OFF[name]) is False and fields(value)[switch] is False
            elif name == "monitor_config":
                agrees = set(fields(value)) == set(MONITORS)
                agrees &= not any(config[key]["enabled"] or fields(value)[key]["enabled"] for key in MONITORS)
            elif name == "comms_config":
                agrees = config["comms_logger"]["enabled"] is value.comms_logger.enabled is False
            elif name in ("expert_parallel_config", "datastates_config"):
                agrees = value.enabled is False
            elif name == "tensor_parallel_config":
                agrees = value.autotp_size == 0
            else:
                agrees = name in DERIVED or name in UNUSED or (name in ABSENT and value == ABSENT[name])
        except KeyError:
            agrees = False
        if not agrees:
            yield name


@pytest.mark.parametrize("profile", ["demo", "ci", "realtext", "site", "nation"])
def test_deepspeed_finds_nothing_left_to_choose(profile: str) -> None:
    """A new DeepSpeed with a new default fails here."""
    config, recipe, parsed = resolve(profile)
    assert list(unsaid(config, parsed)) == []
    assert (parsed.zero_config.stage, parsed.zero_config.overlap_comm) == (recipe["zero_stage"], False)
    assert parsed.bfloat16_config.enabled == (recipe["precision"] == "bf16")
    assert parsed.gradient_clipping == (recipe["gradient_clipping"] if recipe["zero_stage"] else 0.0)


@pytest.mark.parametrize(
    ("section", "key", "attribute"),
    [
        (None, "managed_gradient_accumulation", "managed_gradient_accumulation"),
        ("zero_optimization", "sub_group_size", "zero_config"),
        ("zero_optimization", "stage3_max_reuse_distance", "zero_config"),
        ("timers", "throughput", "timers_config"),
        ("fp16", "enabled", "float16_config"),
        ("checkpoint", "writer", "checkpoint_config"),
        (None, "wandb", "monitor_config"),
    ],
)
def test_what_is_left_out_is_found(section: str | None, key: str, attribute: str) -> None:
    from training.engine import deepspeed

    config, _, _ = resolve("demo")
    del (config if section is None else config[section])[key]
    assert list(unsaid(config, deepspeed.DeepSpeedConfig(config))) == [attribute]


def test_an_attribute_that_is_not_known_here_is_found() -> None:
    config, _, parsed = resolve("demo")
    parsed.a_new_switch = True
    assert list(unsaid(config, parsed)) == ["a_new_switch"]
