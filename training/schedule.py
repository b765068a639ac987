"""The learning rate by step: warm-up, stable, decay (WSD; Hu et al. 2024, MiniCPM, https://arxiv.org/abs/2404.06395)."""

from __future__ import annotations

from sovereign.plan import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of step `step` (from 0): linear up to the peak, the peak, linear down towards zero.

    The last step still learns: its rate is the peak divided by the number of decay steps.
    """
    warmup = (step + 1) / recipe.warmup_steps
    decay = (recipe.num_steps - step) / recipe.decay_steps
    return recipe.learning_rate * max(0.0, min(1.0, warmup, decay))
