"""Tokens shared out by weights, none above its limit: water-filling in whole tokens.

All of it is integers and fractions, or decimals whose rounding is defined, so that every machine gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import TypeVar

from sovereign.errors import PlanError

Key = TypeVar("Key", bound=Hashable)
_DIGITS = 50


def temperature_weight(tokens: int, temperature: float) -> Fraction:
    """tokens^(1/temperature), to 50 digits (Conneau et al. 2020, https://arxiv.org/abs/1911.02116; alpha is 1/T)."""
    if temperature == 1:
        return Fraction(tokens)
    context = Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN)  # its ln and exp are rounded correctly
    return Fraction(context.exp(context.divide(context.ln(Decimal(tokens)), Decimal(repr(temperature)))))


def share_out(budget: int, weights: Mapping[Key, Fraction], limits: Mapping[Key, int] | None = None) -> dict[Key, int]:
    """Whole parts of `budget` that add up to it, in proportion to `weights`, none above its limit.

    What a limit leaves goes to the others in proportion to their weights. Rounded by `largest_remainder`.

    Args:
        weights: by key; 0 gets nothing.
        limits: whole, by the same keys; None for no limits.

    Raises:
        PlanError: all limits together are below the budget.
    """
    fixed: dict[Key, int] = {}
    free = {key: weight for key, weight in weights.items() if weight}
    room = None if limits is None else sum(limits[key] for key in free)
    if not free or (room is not None and room < budget):
        raise PlanError(
            "the mix cannot give the tokens of the run", got=f"at most {room or 0:,}", expected=f"{budget:,}"
        )
    left, total = budget, sum(free.values(), Fraction(0))
    while limits is not None:
        full = [key for key, weight in free.items() if weight * left >= limits[key] * total]
        if not full:
            break
        for key in full:
            fixed[key] = limits[key]
            del free[key]
        left, total = budget - sum(fixed.values()), sum(free.values(), Fraction(0))
    whole = largest_remainder({key: weight * left / total for key, weight in free.items()})
    return {key: fixed.get(key, whole.get(key, 0)) for key in weights}


def largest_remainder(parts: Mapping[Key, Fraction]) -> dict[Key, int]:
    """Whole parts that add up to the sum of `parts`, which must be whole.

    Each part is rounded down; what is left goes one each to those that lost most, in the order of `parts` where they
    lost the same.
    """
    whole = {key: int(part) for key, part in parts.items()}
    missing = int(sum(parts.values(), Fraction(0))) - sum(whole.values())
    for key in sorted(parts, key=lambda key: whole[key] - parts[key])[:missing]:  # stable
        whole[key] += 1
    return whole
