"""The recipe: the training configuration that follows from profile, shape and layout.

Learning rate: half of the OLMo ladder's (Bhagia et al. 2024, https://arxiv.org/abs/2412.04403), 0.0047 (N/108M)^(-1/3).
AdamW's betas and weight decay, clipping, warm-up and decay: the same, OLMo 2 (https://arxiv.org/abs/2501.00656) and WSD
(Hu et al. 2024, https://arxiv.org/abs/2404.06395).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from sovereign.goodput import checkpoint_times, daly_interval_s, time_between_interruptions_s
from sovereign.layout import Layout, precision_of, world_size_of, z_loss_of
from sovereign.obstacles import Changes, Obstacle
from sovereign.profile import Profile
from sovereign.profile_training import Goldfish, RateSpan
from sovereign.section import Section
from sovereign.shapes import ModelShape
from sovereign.speed import training_speed

_DEEP_LAYERS = 24
"""From so many layers on the initialisation is scaled by depth (training/model.py has the sources)."""

BASE_RATE = 0.1
"""Part of the rule's learning rate with which all weights of a base are trained on: the peak that the base itself was
trained with would make it forget (Ibrahim et al. 2024, https://arxiv.org/abs/2403.08763). Adapters take ten times the
rate of all weights (Schulman et al. 2025, LoRA Without Regret), so they take the rule's."""


class RunPhase(Section):
    """A part of the run."""

    num_steps: int
    """Optimizer steps."""
    sequence_length: int
    """Tokens in a row."""
    learning_rate: RateSpan
    """Learning rates, as parts of the peak."""
    mix: dict[str, float] | None = None
    """Weight of each language; None takes them as the corpus has them."""


class Recipe(Section):
    """The training configuration; rendered into DeepSpeed's JSON by training/."""

    num_tokens: int
    """Training budget in whole steps, tokens."""
    num_steps: int
    """Optimizer steps."""
    batch_tokens: int
    """Tokens in one optimizer step over all ranks."""
    world_size: int
    """Ranks: GPUs, or pods on CPU."""
    micro_batch: int
    """Sequences of one rank in one forward pass."""
    grad_accumulation: int
    """Forward passes of one rank in one step."""
    zero_stage: Literal[0, 1, 2, 3]
    """ZeRO stage; 0, without ZeRO, on one rank in fp32."""
    activation_checkpointing: bool
    """Recompute activations in the backward pass."""
    precision: Literal["fp32", "bf16"]
    """Compute precision."""
    compile: bool
    """Use torch.compile."""
    learning_rate: float
    """Peak learning rate."""
    phases: tuple[RunPhase, ...]
    """The parts of the run, in order; their steps add up to num_steps."""
    beta1: float
    """AdamW."""
    beta2: float
    """AdamW."""
    weight_decay: float
    """AdamW, on matrices only."""
    gradient_clipping: float
    """Maximum gradient norm."""
    z_loss: float
    """Coefficient of the z-loss; 0 for none."""
    document_masking: bool
    """Attention does not cross the end of a document."""
    goldfish: Goldfish | None
    """Goldfish loss."""
    depth_scaled_init: bool
    """What writes into the residual stream begins smaller by sqrt(2 x layers)."""
    seed: int
    """Seed of initialisation and data order."""
    checkpoint_every_steps: int
    """Steps between checkpoints."""
    keep_checkpoints: int
    """Newest checkpoints that stay in the store."""
    keep_every_steps: int | None
    """Checkpoints whose step is a multiple of this stay for good."""
    heldout_every_steps: int
    """Steps between measures of held-out text."""
    threads: int
    """Compute threads of a CPU rank; 0 on GPUs."""
    max_eval_questions: int
    """Held-out questions asked in each language."""


def make_recipe(profile: Profile, shape: ModelShape, layout: Layout) -> Recipe:
    """The recipe of a model in this shape and layout."""
    world_size = world_size_of(profile)
    batch_tokens = batch_tokens_of(profile, shape, layout)
    num_steps = max(1, round(profile.training.tokens / batch_tokens))
    scaled_rate = 0.5 * 0.0047 * (shape.num_parameters / 108e6) ** (-1 / 3)
    if profile.base is not None and profile.base.method == "full":
        scaled_rate *= BASE_RATE
    return Recipe(
        num_tokens=num_steps * batch_tokens,
        num_steps=num_steps,
        batch_tokens=batch_tokens,
        world_size=world_size,
        micro_batch=layout.micro_batch,
        grad_accumulation=layout.grad_accumulation,
        zero_stage=layout.zero_stage,
        activation_checkpointing=layout.checkpointing,
        precision=precision_of(profile),
        compile=profile.training.compile,
        learning_rate=profile.training.learning_rate or float(f"{min(scaled_rate, 4e-3):.3g}"),
        phases=_phases(profile, shape, num_steps, batch_tokens),
        beta1=0.9,
        beta2=0.99 if batch_tokens < 524_288 else 0.95,
        weight_decay=0.1,
        gradient_clipping=1.0,
        z_loss=z_loss_of(profile),
        document_masking=profile.training.document_masking,
        goldfish=profile.training.goldfish,
        depth_scaled_init=shape.num_layers >= _DEEP_LAYERS,
        seed=profile.training.seed,
        checkpoint_every_steps=profile.training.checkpoint_every_steps
        or _checkpoint_interval(profile, shape, layout, num_steps, batch_tokens),
        keep_checkpoints=profile.training.keep_checkpoints,
        keep_every_steps=profile.training.keep_every_steps,
        heldout_every_steps=profile.training.heldout_every_steps or max(1, min(1000, num_steps // 5)),
        threads=0 if profile.hardware.gpus_per_node else _threads(profile),
        max_eval_questions=profile.evaluation.max_questions_per_language,
    )


def _checkpoint_interval(profile: Profile, shape: ModelShape, layout: Layout, num_steps: int, batch_tokens: int) -> int:
    """Steps between checkpoints: at least four in a run; on GPUs Daly's optimum, no oftener than the store takes them.

    On CPU, where no rate of interruptions is published, at most 1000 steps.
    """
    most = max(1, num_steps // 4)
    hardware = profile.hardware
    if not hardware.gpus_per_node:
        return min(1000, most)
    world_size = world_size_of(profile)
    times = checkpoint_times(shape.num_trained_parameters, world_size, hardware.gpus_per_node)
    best_s = daly_interval_s(times.stall_s, time_between_interruptions_s(world_size))
    step_s = batch_tokens / training_speed(profile, shape, layout).tokens_per_s
    return max(1, min(most, round(max(best_s, times.upload_s) / step_s)))


def _threads(profile: Profile) -> int:
    """A rank's compute threads, no more than its machine has cores."""
    return min(profile.training.threads_per_pod, profile.hardware.cpus_per_node)


def _phases(profile: Profile, shape: ModelShape, num_steps: int, batch_tokens: int) -> tuple[RunPhase, ...]:
    """The profile's phases in whole steps; without any, WSD: 5% warm-up (at most 2000 steps), 30% linear decay."""
    if not profile.training.phases:
        decay = max(1, num_steps * 3 // 10)
        warmup = min(max(1, min(2000, num_steps // 20)), num_steps - decay)
        parts = [
            (warmup, RateSpan(start=0)),
            (num_steps - warmup - decay, RateSpan()),
            (decay, RateSpan(end=0)),
        ]
        return tuple(
            RunPhase(num_steps=steps, sequence_length=shape.sequence_length, learning_rate=span)
            for steps, span in parts
            if steps
        )
    phases: list[RunPhase] = []
    tokens, done = 0.0, 0
    for number, phase in enumerate(profile.training.phases):
        length = phase.sequence_length or shape.sequence_length
        if shape.sequence_length % length:
            raise Obstacle(
                f"training.phases[{number}].sequence_length does not divide model.sequence_length",
                got=f"{length}, which is no divisor of {shape.sequence_length}",
                fixes=lambda: _length_fixes(profile),
            )
        tokens += phase.tokens
        is_last = number == len(profile.training.phases) - 1
        end = num_steps if is_last else min(round(tokens / batch_tokens), num_steps)
        if end <= done:
            raise Obstacle(
                f"training.phases[{number}] is shorter than half a step",
                got=f"{phase.tokens:g} tokens; a step has {batch_tokens:,}",
                fixes=lambda: _batch_fixes(profile, shape, min(one.tokens for one in profile.training.phases)),
            )
        phases.append(
            RunPhase(
                num_steps=end - done,
                sequence_length=length,
                learning_rate=phase.learning_rate,
                mix=phase.mix,
            )
        )
        done = end
    return tuple(phases)


def batch_tokens_of(profile: Profile, shape: ModelShape, layout: Layout) -> int:
    """Tokens in one optimizer step over all ranks."""
    return world_size_of(profile) * layout.sequences_per_rank * shape.sequence_length


def check_steps(profile: Profile, shape: ModelShape, layout: Layout) -> None:
    """Raises: Obstacle where the budget is less than one step."""
    tokens, batch_tokens = profile.training.tokens, batch_tokens_of(profile, shape, layout)
    if tokens < batch_tokens:
        raise Obstacle(
            "training.tokens is less than one step",
            got=f"{tokens:,.0f} tokens; a step has {batch_tokens:,}",
            fixes=lambda: _budget_fixes(profile, shape, batch_tokens),
        )


def _budget_fixes(profile: Profile, shape: ModelShape, batch_tokens: int) -> Iterator[Changes]:
    if not profile.training.phases:
        yield {"training.tokens": float(batch_tokens)}
    yield from _batch_fixes(profile, shape, profile.training.tokens)


def _batch_fixes(profile: Profile, shape: ModelShape, most: float) -> Iterator[Changes]:
    """Steps of at most `most` tokens: a smaller batch, fewer ranks too, shorter sequences too."""
    rows, length = int(most) // shape.sequence_length, shape.sequence_length
    world_size, hardware = world_size_of(profile), profile.hardware
    if rows >= world_size and rows * length >= 64:
        yield {"training.batch_tokens": rows // world_size * world_size * length}
    elif rows and length >= 64:
        alone = {"hardware.nodes": 1, "hardware.gpus_per_node": 1} if hardware.gpus_per_node else {"training.pods": 1}
        yield alone | {"training.batch_tokens": length}
    while length % 2 == 0 and length >= 128:
        length //= 2
        if int(most) >= length * world_size:
            yield {"model.sequence_length": length, "training.batch_tokens": length * world_size}
            return


def _length_fixes(profile: Profile) -> Iterator[Changes]:
    """The multiple of all phases' lengths that is nearest to the wanted one."""
    common = math.lcm(*(phase.sequence_length for phase in profile.training.phases if phase.sequence_length))
    for length in (profile.model.sequence_length // common * common, common * -(-64 // common)):
        if 64 <= length <= 2**20:
            yield {"model.sequence_length": length}
    without = tuple(phase.model_copy(update={"sequence_length": None}) for phase in profile.training.phases)
    yield {"training.phases": without}
