"""The recipe: the training configuration that follows from profile, shape and layout.

Learning rate from the OLMo ladder (AI2): 0.00235 (N/108M)^(-1/3).
"""

from __future__ import annotations

import math
from typing import Literal

from sovereign.layout import Layout, batch_sequences, precision_of, world_size_of
from sovereign.profile import Profile, Section
from sovereign.shapes import ModelShape


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
    zero_stage: Literal[1, 2, 3]
    """ZeRO stage."""
    activation_checkpointing: bool
    """Recompute activations in the backward pass."""
    precision: Literal["fp32", "bf16"]
    """Compute precision."""
    compile: bool
    """Use torch.compile."""
    learning_rate: float
    """Peak learning rate."""
    warmup_steps: int
    """Linear warm-up."""
    decay_steps: int
    """Steps of the final linear decay to zero (WSD)."""
    beta1: float
    """AdamW."""
    beta2: float
    """AdamW."""
    weight_decay: float
    """AdamW, on matrices only."""
    gradient_clipping: float
    """Maximum gradient norm."""
    seed: int
    """Seed of initialisation and data order."""
    checkpoint_every_steps: int
    """Steps between checkpoints."""
    threads: int
    """Compute threads of a CPU rank; 0 on GPUs."""
    max_eval_questions: int
    """Held-out questions asked in each language."""


def make_recipe(profile: Profile, shape: ModelShape, layout: Layout) -> Recipe:
    """The recipe of a model in this shape and layout."""
    world_size = world_size_of(profile)
    sequences = batch_sequences(profile, shape, world_size)
    batch_tokens = sequences * shape.sequence_length
    num_steps = math.ceil(profile.training.tokens / batch_tokens)
    scaled_rate = 0.5 * 0.0047 * (shape.num_parameters / 108e6) ** (-1 / 3)
    return Recipe(
        num_tokens=num_steps * batch_tokens,
        num_steps=num_steps,
        batch_tokens=batch_tokens,
        world_size=world_size,
        micro_batch=layout.micro_batch,
        grad_accumulation=sequences // world_size // layout.micro_batch,
        zero_stage=layout.zero_stage,
        activation_checkpointing=layout.checkpointing,
        precision=precision_of(profile),
        compile=profile.training.compile,
        learning_rate=profile.training.learning_rate or float(f"{min(scaled_rate, 4e-3):.3g}"),
        warmup_steps=max(1, min(2000, num_steps // 20)),
        decay_steps=max(1, num_steps * 3 // 10),
        beta1=0.9,
        beta2=0.99 if batch_tokens < 524_288 else 0.95,
        weight_decay=0.1,
        gradient_clipping=1.0,
        seed=profile.training.seed,
        checkpoint_every_steps=profile.training.checkpoint_every_steps or max(1, min(1000, num_steps // 4)),
        threads=0 if profile.hardware.gpus_per_node else profile.training.threads_per_pod,
        max_eval_questions=profile.evaluation.max_questions_per_language,
    )
