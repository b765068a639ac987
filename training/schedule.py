"""What holds at a step of the run: its phase, and the learning rate.

The plan's phases without any in the profile are warm-up, peak, decay (WSD; Hu et al. 2024, MiniCPM,
https://arxiv.org/abs/2404.06395). A decay by the square root is the 1-sqrt rule of Hägele et al. 2024,
https://arxiv.org/abs/2405.18392.
"""

from __future__ import annotations

import math

from sovereign.plan import Recipe, RunPhase


def phase_at(recipe: Recipe, step: int) -> tuple[RunPhase, int]:
    """The phase of step `step` (from 0), and the step's number in it (from 0).

    Raises:
        IndexError: the run has no such step.
    """
    number = step
    for phase in recipe.phases:
        if number < phase.num_steps:
            return phase, number
        number -= phase.num_steps
    raise IndexError(f"step {step} of {recipe.num_steps}")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of step `step` (from 0).

    A rate that rises has its end at the phase's last step; one that falls has its start at the first, and would be at
    its end in the step after the last. So no step is lost to a rate of zero.
    """
    phase, number = phase_at(recipe, step)
    span, steps = phase.learning_rate, phase.num_steps
    done = number + 1 if span.end > span.start else number
    if span.shape == "linear":
        part = (span.start * (steps - done) + span.end * done) / steps
    else:
        way = math.sqrt(done / steps) if span.shape == "sqrt" else (1 - math.cos(math.pi * done / steps)) / 2
        part = span.start + (span.end - span.start) * way
    return recipe.learning_rate * part
