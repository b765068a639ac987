"""The rewards report: how a fund is divided among the owners of the text that a model was trained on.

A pure function of the profile's `rewards`, of what training took of each owner's text, and of the influence report; the
same values give the same bytes on any machine, since all is computed in whole numbers and fractions. Of an owner:

    weighted tokens = sum over tiers of multiplier x sum over k of tokens of its documents with k owners / k
    points          = floor + weighted tokens^exponent + influence_weight x influence

The power is rounded down to a millionth of a point. Influence is the lower end of the confidence interval where that is
above 0. Shares are points divided by all points, at most `max_share`; what is above goes to the others by their points.
Sums are whole in the fund's smallest unit by largest remainders; of equal ones the first name by code points has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import rfc8785

from sovereign.errors import ProofError
from sovereign.lake.allocation import largest_remainder
from sovereign.profile_rewards import Rewards
from sovereign.section import exact

FORMAT = "sovereign/rewards/v1"
UNMEASURED = "unmeasured"
"""The tier of documents without a quality."""
_ROUNDING = 10**6
"""A point has so many parts."""

Consumed = Mapping[str, Mapping[int, int]]
"""Tokens that training took of an owner's documents, by tier and by the number of a document's owners."""


@dataclass(frozen=True)
class OwnerFacts:
    """What the report is computed from, for one owner."""

    licences: Sequence[str]
    """Of its documents in the training data."""
    consumed: Consumed
    influence: Fraction | None = None
    """Lower end of the confidence interval, bits per byte; None where it was not measured."""


def tier_names(settings: Rewards) -> list[str]:
    """The tiers, the highest first, and `unmeasured`."""
    limits = sorted((tier.min_quality for tier in settings.tiers), reverse=True)
    return [*(text(exact(limit)) for limit in limits), UNMEASURED]


def tier_numbers(settings: Rewards, qualities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Places in `tier_names` of documents with these qualities, NaN where it is not measured; the same shape."""
    limits = sorted(tier.min_quality for tier in settings.tiers)
    places = np.searchsorted(limits, qualities, side="right")
    return np.where(np.isnan(qualities), len(limits), len(limits) - places)


def make_report(
    settings: Rewards, dataset: str, inputs: Mapping[str, Any], owners: Mapping[str, OwnerFacts]
) -> dict[str, Any]:
    """The report, JSON values; exact numbers are text, as decimals or as `numerator/denominator`.

    Args:
        inputs: names and SHA-256 of all that `owners` follows from.
        owners: everyone of whom the training data has a document.

    Raises:
        ProofError: nobody has a point, or the owners are too few for `max_share`.
    """
    multipliers = _multipliers(settings)
    rows = {name: _row(settings, multipliers, name, facts) for name, facts in sorted(owners.items())}
    points = {name: row["points"] for name, row in rows.items()}
    parts = divide(points, exact(settings.cap.max_share) if settings.cap.max_share is not None else None)
    units = settings.fund.amount * 10**settings.fund.decimals
    sums = pay(units, parts)
    return {
        "format": FORMAT,
        "dataset": dataset,
        "inputs": dict(inputs),
        "settings": settings.model_dump(mode="json"),
        "total_points": text(sum(points.values(), Fraction(0))),
        "total": _money(units, settings),
        "owners": [
            {
                **{key: text(value) if isinstance(value, Fraction) else value for key, value in row.items()},
                "share": text(parts[name]),
                "sum": _money(sums[name], settings),
                "units": sums[name],
            }
            for name, row in rows.items()
        ],
    }


def write_report(report: Mapping[str, Any]) -> bytes:
    """The canonical JSON (RFC 8785) of a report.

    Raises:
        ProofError: a count is beyond 2^53, which canonical JSON has not.
    """
    try:
        return rfc8785.dumps(dict(report))
    except rfc8785.CanonicalizationError as error:
        raise ProofError(f"the rewards report cannot be written: {error}") from error


def _multipliers(settings: Rewards) -> dict[str, Fraction]:
    tiers = sorted(settings.tiers, key=lambda tier: tier.min_quality, reverse=True)
    values = [*(exact(tier.multiplier) for tier in tiers), exact(settings.unmeasured)]
    return dict(zip(tier_names(settings), values, strict=True))


def _row(settings: Rewards, multipliers: Mapping[str, Fraction], name: str, facts: OwnerFacts) -> dict[str, Any]:
    tiers = [
        {
            "tier": tier,
            "multiplier": text(multiplier),
            "tokens_by_owners": {str(k): n for k, n in sorted(found.items())},
        }
        for tier, multiplier in multipliers.items()
        if (found := {k: n for k, n in facts.consumed.get(tier, {}).items() if n})
    ]
    weighted = sum(
        (
            multipliers[tier] * Fraction(tokens, owners)
            for tier, found in facts.consumed.items()
            for owners, tokens in found.items()
        ),
        Fraction(0),
    )
    from_tokens = power(weighted, exact(settings.cap.exponent))
    from_influence = exact(settings.influence_weight) * max(facts.influence or Fraction(0), Fraction(0))
    return {
        "owner": name,
        "licences": sorted(facts.licences),
        "consumed": tiers,
        "weighted_tokens": weighted,
        "points_from_tokens": from_tokens,
        "influence": facts.influence,
        "points_from_influence": from_influence,
        "points": exact(settings.floor) + from_tokens + from_influence,
    }


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base`^`exponent`, rounded down to a millionth."""
    top, root = exponent.numerator, exponent.denominator
    scaled = _ROUNDING**root * base.numerator**top // base.denominator**top
    return Fraction(_root(scaled, root), _ROUNDING)


def _root(number: int, degree: int) -> int:
    """The whole part of the root of this degree, by Newton's method from above."""
    if number == 0:
        return 0
    guess = 1 << -(-number.bit_length() // degree)
    while True:
        following = ((degree - 1) * guess + number // guess ** (degree - 1)) // degree
        if following >= guess:
            return guess
        guess = following


def divide(points: Mapping[str, Fraction], max_share: Fraction | None) -> dict[str, Fraction]:
    """Each one's part of the whole, in proportion to its points; nobody has more than `max_share`.

    Raises:
        ProofError: nobody has a point, or so few have that the whole cannot be given away.
    """
    with_points = {name: own for name, own in points.items() if own}
    if not with_points:
        raise ProofError(
            "no owner has a point, so the fund cannot be divided",
            expected="rewards.floor above 0, or a tier's multiplier above 0 for text that was trained on",
        )
    limit = max_share if max_share is not None else Fraction(1)
    if limit * len(with_points) < 1:
        raise ProofError(
            "rewards.cap.max_share leaves a part of the fund to nobody",
            got=f"{text(limit)} for each of {len(with_points)} owners with points",
            expected=f"at least 1/{len(with_points)}",
        )
    capped: dict[str, Fraction] = {}
    while True:
        others = {name: own for name, own in with_points.items() if name not in capped}
        left, total = 1 - limit * len(capped), sum(others.values())
        above = [name for name, own in others.items() if own * left > limit * total]
        if not above:
            break
        capped |= dict.fromkeys(above, limit)
    return {
        name: capped[name] if name in capped else own * left / total if own else own for name, own in points.items()
    }


def pay(units: int, parts: Mapping[str, Fraction]) -> dict[str, int]:
    """`units` divided by `parts` (their sum is 1) into whole numbers whose sum is `units`: largest remainders."""
    return largest_remainder({name: units * parts[name] for name in sorted(parts)})


def text(number: Fraction) -> str:
    """A finite decimal as such, any other fraction as `numerator/denominator`."""
    digits = 0
    while (scaled := number * 10**digits).denominator > 1:
        digits += 1
        if digits > 40:
            return f"{number.numerator}/{number.denominator}"
    sign, figures = "-" if scaled < 0 else "", str(abs(int(scaled))).rjust(digits + 1, "0")
    return sign + (f"{figures[:-digits]}.{figures[-digits:]}" if digits else figures)


def _money(units: int, settings: Rewards) -> str:
    decimals = settings.fund.decimals
    figures = str(units).rjust(decimals + 1, "0")
    amount = f"{figures[:-decimals]}.{figures[-decimals:]}" if decimals else figures
    return f"{amount} {settings.fund.currency}"
