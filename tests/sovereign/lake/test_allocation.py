"""Water-filling: the parts add up, limits hold, the others keep their proportions, every machine gets the same."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sovereign.errors import PlanError
from sovereign.lake.allocation import share_out, temperature_weight
from sovereign.section import exact

weights = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.fractions(0, 1000), min_size=1, max_size=8)


@given(weights=weights, budget=st.integers(1, 10**15))
def test_without_limits_parts_are_proportional_to_weights(weights: dict[str, Fraction], budget: int) -> None:
    total = sum(weights.values())
    assume(total)
    parts = share_out(budget, weights)
    assert sum(parts.values()) == budget
    assert all(abs(parts[key] - budget * weight / total) < 1 for key, weight in weights.items())
    assert all(parts[key] == 0 for key, weight in weights.items() if not weight)


@given(weights=weights, data=st.data())
def test_limits_hold_and_the_others_share_what_is_left(weights: dict[str, Fraction], data: st.DataObject) -> None:
    assume(any(weights.values()))
    limits = {key: data.draw(st.integers(0, 10**6), label=key) for key in weights}
    room = sum(limits[key] for key, weight in weights.items() if weight)
    assume(room)
    budget = data.draw(st.integers(1, room), label="budget")
    parts = share_out(budget, weights, limits)
    assert sum(parts.values()) == budget
    assert all(0 <= parts[key] <= limits[key] for key in parts)
    # One level for all, to the rounding of a token: the others have it, those that are full would have had as much.
    positive = {key: weight for key, weight in weights.items() if weight}
    free = [key for key in positive if parts[key] < limits[key]]
    lowest = max(Fraction(parts[key] - 1) / weight for key, weight in positive.items())
    assert all(Fraction(parts[key] + 1) / positive[key] > lowest for key in free)


def test_what_a_limit_leaves_goes_to_the_others_by_their_weights() -> None:
    parts = share_out(1000, {"a": Fraction(6), "b": Fraction(3), "c": Fraction(1)}, {"a": 100, "b": 1000, "c": 1000})
    assert parts == {"a": 100, "b": 675, "c": 225}
    # A second limit is reached only when the first has left its part.
    parts = share_out(1000, {"a": Fraction(6), "b": Fraction(3), "c": Fraction(1)}, {"a": 100, "b": 400, "c": 1000})
    assert parts == {"a": 100, "b": 400, "c": 500}


def test_rounding_is_by_largest_remainder_then_by_order() -> None:
    assert share_out(100, dict.fromkeys("abc", Fraction(1))) == {"a": 34, "b": 33, "c": 33}
    assert share_out(10, {"a": Fraction(1), "b": Fraction(2), "c": Fraction(4)}) == {"a": 1, "b": 3, "c": 6}


@pytest.mark.parametrize("limits", [{"a": 10, "b": 20}, {"a": 0, "b": 0}])
def test_a_budget_beyond_all_limits_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(PlanError, match=rf"(?s)got: at most {sum(limits.values())}\n.*expected: 31"):
        share_out(31, {"a": Fraction(1), "b": Fraction(1)}, limits)


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(PlanError):
        share_out(31, {"a": Fraction(0)})


@given(tokens=st.integers(1, 10**15), temperature=st.integers(2, 100))
def test_temperature_is_a_root(tokens: int, temperature: int) -> None:
    root = temperature_weight(tokens, float(temperature))
    assert abs(root**temperature / tokens - 1) < Fraction(1, 10**40)
    assert temperature_weight(tokens, 1.0) == temperature_weight(tokens, 1) == tokens


def test_temperature_evens_out_and_needs_no_floats() -> None:
    small, large = (temperature_weight(tokens, 3.3) for tokens in (10**6, 10**9))
    assert 8 < large / small < 9  # 1000^(1/3.3)
    digits = Context(prec=48).divide(Decimal(small.numerator), Decimal(small.denominator))
    assert str(digits) == "65.7933224657567992270761222555991490385245791256"
    assert exact(0.1) * 10 == 1 and exact(1e-06) == Fraction(1, 10**6) and exact(3) == 3
