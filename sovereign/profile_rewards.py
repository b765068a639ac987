"""The part of the profile that says how a fund is divided among the owners of the text (docs/attribution.md)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from sovereign.section import Section, exact

Points = Annotated[float, Field(ge=0, le=1e12)]
Multiplier = Annotated[float, Field(ge=0, le=1e6)]
_LARGEST_DENOMINATOR = 100


class Fund(Section):
    """What is divided."""

    amount: Annotated[int, Field(ge=1, le=10**12, strict=True)]
    """Whole units of `currency`."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    """ISO 4217 code."""
    decimals: Annotated[int, Field(ge=0, le=3)] = 2
    """Digits after the point of the smallest sum that is paid: 2 for EUR, 0 for JPY, 3 for KWD."""


class Tier(Section):
    """Documents from a quality on."""

    min_quality: Annotated[float, Field(ge=0, le=1)]
    """Lowest `quality` of a document in this tier; a document is in the highest tier that it reaches."""
    multiplier: Multiplier
    """How often a token of it counts."""


class Cap(Section):
    """What keeps the largest owners from having nearly all."""

    exponent: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Points are weighted tokens to this power: 1 is proportional, below 1 more tokens give less and less. At most two
    digits after the point."""
    max_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Largest part of the fund for one owner; what is above it goes to the others by their points."""

    @field_validator("exponent")
    @classmethod
    def _exponent_is_a_small_fraction(cls, exponent: float) -> float:
        if _LARGEST_DENOMINATOR % exact(exponent).denominator:
            raise ValueError("must have at most two digits after the point, so that its power can be exact")
        return exponent


class Rewards(Section):
    """How a fund is divided: points = floor + (weighted tokens)^exponent + influence_weight × influence."""

    fund: Fund
    """The fund."""
    floor: Points = 0.0
    """Points that every owner has of whose documents the training data has one."""
    tiers: Annotated[tuple[Tier, ...], Field(min_length=1, max_length=100)] = (Tier(min_quality=0, multiplier=1),)
    """Quality tiers; one begins at 0."""
    unmeasured: Multiplier = 1.0
    """How often a token counts of a document whose quality is not measured: too short, or no quality rules."""
    cap: Cap = Cap()
    """Caps."""
    influence_weight: Points = 0.0
    """Points for each bit per byte by which held-out text is predicted worse without the owner, taken at the lower end
    of its confidence interval and only where this is above 0; 0 leaves influence out."""

    @model_validator(mode="after")
    def _every_document_has_one_tier(self) -> Self:
        limits = [tier.min_quality for tier in self.tiers]
        if min(limits) > 0:
            raise ValueError(f"tiers leave out documents below a quality of {min(limits):g}: one needs min_quality 0")
        if len(set(limits)) != len(limits):
            raise ValueError(f"tiers repeat a min_quality: {sorted(limits)}")
        return self
