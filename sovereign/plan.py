"""The plan: what follows from a profile, by one pure function; stacks and training read the Plan only.

Its parts, each with its formulas and their sources: the model's shape (sovereign/shapes.py), how it lies on the devices
(layout.py), the recipe (recipe.py), what the run takes and what the queue gives (estimates.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from sovereign.estimates import Estimates, Quota, estimate, make_quota
from sovereign.layout import Layout, choose_layout, wanted_batch_tokens
from sovereign.profile import Profile
from sovereign.profile_base import Base
from sovereign.profile_training import Goldfish
from sovereign.recipe import Recipe, RunPhase, make_recipe
from sovereign.refusals import refuse
from sovereign.section import Section
from sovereign.shapes import ModelShape, choose_shape

__all__ = ["Estimates", "Goldfish", "ModelShape", "Plan", "Quota", "Recipe", "RunPhase", "plan"]


_FAR = 1.5
"""A size that is so many times the wanted one, or a part of it, is worth a note."""
_ROUNDED = 0.01


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
    notes: tuple[str, ...] = ()
    """Where the plan is not what the profile asked for, for people."""


def plan(profile: Profile) -> Plan:
    """Compute the plan of `profile`. Pure: no clock, no file, no environment.

    Raises:
        PlanError: the model, its checkpoints or its data cannot fit; says what would.
    """
    refuse(profile)
    shape = choose_shape(profile)
    layout = choose_layout(profile, shape)
    recipe = make_recipe(profile, shape, layout)
    return Plan(
        profile=profile.name,
        model=shape,
        num_parameters=shape.num_parameters,
        base=profile.base,
        recipe=recipe,
        estimates=estimate(profile, shape, layout, recipe),
        quota=make_quota(profile, layout),
        notes=tuple(_notes(profile, shape, layout, recipe)),
    )


def _notes(profile: Profile, shape: ModelShape, layout: Layout, recipe: Recipe) -> Iterator[str]:
    wanted, size = profile.model.parameters, shape.num_parameters
    if profile.base is None and wanted and max(wanted / size, size / wanted) > _FAR:
        embedding = f"; {shape.num_embedding_parameters:,} of them are the vocabulary's" if size > wanted else ""
        yield f"model.parameters of {wanted:g} is far from any shape: the nearest has {size:,}{embedding}"
    batch = wanted_batch_tokens(profile, shape)
    if recipe.batch_tokens != batch:
        asked = "training.batch_tokens of" if profile.training.batch_tokens else "the rule's batch of"
        yield f"{asked} {batch:,} tokens is {recipe.batch_tokens:,}: whole sequences, as many on each rank"
    if 2 * layout.micro_batch < min(layout.largest_micro_batch, layout.sequences_per_rank):
        yield (
            f"{layout.sequences_per_rank} sequences on each rank are computed {layout.micro_batch} at a time, where "
            f"{layout.largest_micro_batch} fit: another training.batch_tokens trains faster"
        )
    if recipe.threads and recipe.threads < profile.training.threads_per_pod:
        yield f"training.threads_per_pod of {profile.training.threads_per_pod} is {recipe.threads}: a machine's cores"
    if abs(recipe.num_tokens / profile.training.tokens - 1) > _ROUNDED:
        yield (
            f"training.tokens of {profile.training.tokens:,.0f} is {recipe.num_tokens:,}: "
            f"{recipe.num_steps:,} whole steps of {recipe.batch_tokens:,}"
        )
