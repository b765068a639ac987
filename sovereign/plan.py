"""The plan: what follows from a profile, by one pure function; stacks and training read the Plan only.

Its parts, each with its formulas and their sources: the model's shape (sovereign/shapes.py), how it lies on the devices
(layout.py), the recipe (recipe.py), what the run takes and what the queue gives (estimates.py).
"""

from __future__ import annotations

from sovereign.estimates import Estimates, Quota, estimate, make_quota
from sovereign.layout import choose_layout, refusal
from sovereign.profile import Profile
from sovereign.profile_base import Base
from sovereign.profile_training import Goldfish
from sovereign.recipe import Recipe, RunPhase, make_recipe
from sovereign.section import Section
from sovereign.shapes import ModelShape, choose_shape

__all__ = ["Estimates", "Goldfish", "ModelShape", "Plan", "Quota", "Recipe", "RunPhase", "plan"]


class Plan(Section):
    """What follows from a profile."""

    profile: str
    """Name of the profile."""
    model: ModelShape
    """The model's shape."""
    num_parameters: int
    """Exact parameter count."""
    base: Base | None
    """The model that training continues from."""
    recipe: Recipe
    """The training configuration."""
    estimates: Estimates
    """What it will take."""
    quota: Quota
    """What the queue gets."""


def plan(profile: Profile) -> Plan:
    """Compute the plan of `profile`. Pure: no clock, no file, no environment.

    Raises:
        PlanError: the model, its checkpoints or its data cannot fit; says what would.
    """
    shape = choose_shape(profile)
    layout = choose_layout(profile, shape)
    if not layout.fits:
        raise refusal(profile, shape, layout)
    recipe = make_recipe(profile, shape, layout)
    return Plan(
        profile=profile.name,
        model=shape,
        num_parameters=shape.num_parameters,
        base=profile.base,
        recipe=recipe,
        estimates=estimate(profile, shape, layout, recipe),
        quota=make_quota(profile, layout),
    )
