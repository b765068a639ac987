"""Which runs are the same: one that goes on with another number of ranks is, one with another batch is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from sovereign.errors import CheckpointError
from sovereign.plan import Plan
from sovereign.profile import Profile

LAYOUT = {"world_size", "micro_batch", "grad_accumulation", "zero_stage", "activation_checkpointing", "threads"}
"""Of the recipe: how the work lies on the machines. It changes results by the order of floating-point sums only."""
_NOT_TRAINING = {"checkpoint_every_steps", "keep_checkpoints", "keep_every_steps", "heldout_every_steps"}
_NOT_WISHED = {"pods", "threads_per_pod", "zero_stage"} | _NOT_TRAINING


def run_config(plan: Plan) -> dict[str, Any]:
    """What a run's result depends on, beside its inputs."""
    return {
        "model": plan.model.model_dump(),
        "recipe": plan.recipe.model_dump(exclude=LAYOUT | _NOT_TRAINING | {"max_eval_questions"}),
    } | ({"base": plan.base.config()} if plan.base else {})


def resolved_config(profile: Profile, plan: Plan, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What is written into every checkpoint, JSON values."""
    parts: dict[str, BaseModel] = {"profile": profile, "plan": plan}
    return {name: part.model_dump(mode="json") for name, part in parts.items()} | {"inputs": dict(inputs)}


def refuse_another_batch(own: Mapping[str, Any], others: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse to start afresh where only the number of ranks was changed, and with it the tokens in a step.

    Args:
        own: `resolved_config` of the run that is to start.
        others: folder and `resolved_config` of the checkpoints of other runs.

    Raises:
        CheckpointError: one of them is of the same profile, data and model.
    """
    for folder, other in others:
        before, now = other["plan"]["recipe"], own["plan"]["recipe"]
        if before["batch_tokens"] != now["batch_tokens"] and _wish(other) == _wish(own):
            sequences = before["batch_tokens"] // own["plan"]["model"]["sequence_length"]
            raise CheckpointError(
                f"the run cannot go on with {now['world_size']} ranks: a step would have another number of tokens",
                got=f"{now['batch_tokens']} tokens with {now['world_size']} ranks",
                expected=f"{before['batch_tokens']} tokens, as with {before['world_size']}: a number of ranks that "
                f"divides {sequences} sequences",
                hint=f"change training.pods (or hardware.nodes), or remove {folder} in the store to start afresh",
            )


def _wish(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the user wants, whatever machines do it."""
    profile = config["profile"]
    training = {key: value for key, value in profile["training"].items() if key not in _NOT_WISHED}
    return profile["model"], profile["base"], training, config["inputs"]
