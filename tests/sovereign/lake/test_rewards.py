"""The rewards report: it divides the whole fund, exactly, and everyone can do the sum again from its page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sovereign.errors import ProofError
from sovereign.lake.rewards import (
    OwnerFacts,
    divide,
    make_report,
    pay,
    power,
    text,
    tier_names,
    tier_numbers,
    write_report,
)
from sovereign.lake.rewards_page import render_page
from sovereign.profile_rewards import Cap, Fund, Rewards, Tier

TIERS = (
    Tier(min_quality=0, multiplier=1),
    Tier(min_quality=0.75, multiplier=1.5),
    Tier(min_quality=0.5, multiplier=1.2),
)
NAMES = ("0.75", "0.5", "0", "unmeasured")
INPUTS = {"models/x/train/ledger.json": "ab" * 32}

exponents = st.integers(1, 100).map(lambda hundredths: hundredths / 100)
any_settings = st.builds(
    Rewards,
    fund=st.builds(Fund, amount=st.integers(1, 10**9), decimals=st.integers(0, 3)),
    floor=st.sampled_from([0.5, 3.0, 100.0]),
    tiers=st.just(TIERS),
    unmeasured=st.sampled_from([0.0, 0.1, 1.0]),
    cap=st.builds(Cap, exponent=exponents),
    influence_weight=st.sampled_from([0.0, 1.5, 1000.0]),
)
counts = st.dictionaries(st.integers(1, 4), st.integers(0, 10**12), max_size=3)
facts = st.builds(
    OwnerFacts,
    licences=st.lists(st.sampled_from(["CC0-1.0", "CC-BY-4.0"]), unique=True),
    consumed=st.dictionaries(st.sampled_from(NAMES), counts),
    influence=st.none() | st.fractions(-1, 1, max_denominator=10**6).map(lambda x: Fraction(round(x * 10**6), 10**6)),
)
any_owners = st.dictionaries(st.text(min_size=1, max_size=8), facts, min_size=1, max_size=8)


def make(rules: Rewards, owners: Mapping[str, OwnerFacts]) -> dict[str, Any]:
    """The report as its readers have it."""
    read: dict[str, Any] = json.loads(write_report(make_report(rules, "x", INPUTS, owners)))
    return read


def row_of(report: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """One owner's row."""
    row: dict[str, Any] = next(row for row in report["owners"] if row["owner"] == owner)
    return row


@settings(max_examples=100, deadline=None)
@given(rules=any_settings, owners=any_owners)
def test_the_whole_fund_is_divided(rules: Rewards, owners: dict[str, OwnerFacts]) -> None:
    report = make(rules, owners)
    units = rules.fund.amount * 10**rules.fund.decimals
    assert sum(row["units"] for row in report["owners"]) == units
    assert sum(Fraction(row["share"]) for row in report["owners"]) == 1
    assert Fraction(report["total_points"]) == sum(Fraction(row["points"]) for row in report["owners"])
    for row in report["owners"]:
        assert abs(row["units"] - units * Fraction(row["share"])) < 1
        assert Fraction(row["sum"].split()[0]) * 10**rules.fund.decimals == row["units"]
    again = dict(reversed(list(owners.items())))
    assert write_report(make_report(rules, "x", INPUTS, again)) == write_report(make_report(rules, "x", INPUTS, owners))


@settings(max_examples=100, deadline=None)
@given(rules=any_settings, owners=any_owners, data=st.data(), more=st.integers(1, 10**12))
def test_more_tokens_or_a_better_tier_never_give_less(
    rules: Rewards, owners: dict[str, OwnerFacts], data: st.DataObject, more: int
) -> None:
    name = data.draw(st.sampled_from(sorted(owners)))
    consumed = {tier: dict(found) for tier, found in owners[name].consumed.items()}
    better = {tier: dict(found) for tier, found in consumed.items()}
    consumed.setdefault("0", {})[1] = consumed.get("0", {}).get(1, 0) + more
    better.setdefault("0.75", {})[1] = better.get("0.75", {}).get(1, 0) + more
    rows = [
        row_of(make(rules, owners | {name: replace(owners[name], consumed=found)}), name)
        for found in (owners[name].consumed, consumed, better)
    ]
    points = [Fraction(row["points"]) for row in rows]
    assert points == sorted(points)
    assert [row["units"] for row in rows] == sorted(row["units"] for row in rows)


@given(tokens=st.integers(1, 10**12), owners=st.integers(1, 5), rest=st.integers(1, 10**12))
def test_a_document_of_several_owners_is_split_among_them(tokens: int, owners: int, rest: int) -> None:
    rules = Rewards(fund=Fund(amount=10**6), cap=Cap(exponent=1))
    alone = make(rules, {"a": OwnerFacts((), {"0": {1: tokens}}), "z": OwnerFacts((), {"0": {1: rest}})})
    names = "abcde"[:owners]
    shared = make(
        rules,
        {name: OwnerFacts((), {"0": {owners: tokens}}) for name in names} | {"z": OwnerFacts((), {"0": {1: rest}})},
    )
    assert sum(Fraction(row_of(shared, name)["weighted_tokens"]) for name in names) == tokens
    assert len({row_of(shared, name)["points"] for name in names}) == 1
    lost = Fraction(row_of(alone, "z")["share"]) - Fraction(row_of(shared, "z")["share"])
    assert abs(lost) < Fraction(1, 10**5)  # up to the rounding of a point, the others neither gain nor lose by it


@given(
    base=st.fractions(0, 10**15, max_denominator=1000),
    exponent=exponents.map(lambda value: Fraction(repr(value))),
)
def test_the_power_is_rounded_down_to_a_millionth(base: Fraction, exponent: Fraction) -> None:
    found = power(base, exponent)
    assert (found * 10**6).denominator == 1
    wanted = base**exponent.numerator
    assert found**exponent.denominator <= wanted < (found + Fraction(1, 10**6)) ** exponent.denominator


def test_influence_counts_where_its_lower_end_is_above_zero() -> None:
    rules = Rewards(fund=Fund(amount=100), floor=10, influence_weight=1000)
    owners = {
        "above": OwnerFacts((), {}, Fraction("0.0025")),
        "below": OwnerFacts((), {}, Fraction("-0.2")),
        "not measured": OwnerFacts((), {}),
    }
    report = make(rules, owners)
    assert {row["owner"]: row["points"] for row in report["owners"]} == {
        "above": "12.5",
        "below": "10",
        "not measured": "10",
    }


@settings(max_examples=100)
@given(
    points=st.dictionaries(st.text(max_size=3), st.fractions(0, 10**6), min_size=1, max_size=8),
    limit=st.fractions(0, 1),
)
def test_nobody_has_more_than_the_largest_share(points: dict[str, Fraction], limit: Fraction) -> None:
    num_owners = sum(own > 0 for own in points.values())
    assume(num_owners)
    if limit * num_owners < 1:
        with pytest.raises(ProofError, match=f"expected: at least 1/{num_owners}"):
            divide(points, limit)
        return
    parts = divide(points, limit)
    assert sum(parts.values()) == 1
    assert max(parts.values()) <= limit
    below = {name: part / points[name] for name, part in parts.items() if points[name] and part < limit}
    assert len(set(below.values())) <= 1  # those below the limit share by their points
    ordered = sorted(points, key=lambda name: points[name])
    assert [parts[name] for name in ordered] == sorted(parts.values())


def test_units_that_are_left_go_to_the_largest_remainders_and_then_by_name() -> None:
    third = Fraction(1, 3)
    assert pay(100, {"b": third, "a": third, "c": third}) == {"a": 34, "b": 33, "c": 33}
    assert pay(10, {"a": Fraction("0.54"), "b": Fraction("0.46")}) == {"a": 5, "b": 5}
    assert pay(2, {"a": Fraction("0.1"), "b": Fraction("0.9")}) == {"a": 0, "b": 2}


@given(st.fractions())
def test_numbers_are_written_exactly(number: Fraction) -> None:
    assert Fraction(text(number)) == number
    assert ("/" in text(number)) == (10**40 % number.denominator != 0)


def test_a_document_is_in_the_highest_tier_that_it_reaches() -> None:
    rules = Rewards(fund=Fund(amount=1), tiers=TIERS)
    assert tuple(tier_names(rules)) == NAMES
    expected = {0: "0", 0.49: "0", 0.5: "0.5", 0.74: "0.5", 0.75: "0.75", 1: "0.75", math.nan: "unmeasured"}
    assert [NAMES[place] for place in tier_numbers(rules, np.array([*expected]))] == [*expected.values()]


def test_a_fund_that_cannot_be_divided_is_an_error() -> None:
    rules = Rewards(fund=Fund(amount=1))
    with pytest.raises(ProofError, match="no owner has a point"):
        make_report(rules, "x", INPUTS, {"a": OwnerFacts((), {"0": {1: 0}})})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tiers": [{"min_quality": 0.5, "multiplier": 1}]}, "one needs min_quality 0"),
        ({"tiers": [{"min_quality": 0, "multiplier": 1}] * 2}, "repeat a min_quality"),
        ({"cap": {"exponent": 0.333}}, "at most two digits"),
        ({"cap": {"exponent": 1.2}}, "less than or equal to 1"),
        ({"floor": -1}, "greater than or equal to 0"),
        ({"fund": {"amount": 10.5}}, "integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rewards.model_validate({"fund": {"amount": 1}} | wrong)


@settings(max_examples=50, deadline=None)
@given(rules=any_settings, owners=any_owners)
def test_an_owner_can_do_the_sum_again_from_the_page(rules: Rewards, owners: dict[str, OwnerFacts]) -> None:
    report = make(rules, owners)
    page = render_page(report, "0" * 64)
    assert "ab" * 32 in page
    exponent = Fraction(re.findall(r"\(weighted tokens\)\^(\S+) ", page)[0])
    sections = page.partition("## Owners")[2].partition("## Inputs")[0].split("\n    weighted tokens = ")[1:]
    assert len(sections) == len(owners)
    total = Fraction(0)
    for section, row in zip(sections, report["owners"], strict=True):
        term_line, weighted_line, points_line = section.split("\n")[:3]
        weighted = Fraction(0)
        for multiplier, inner in re.findall(r"(\S+) x \(([^)]*)\)", term_line):
            weighted += Fraction(multiplier) * sum(Fraction(one) for one in inner.split(" + "))
        assert weighted == Fraction(weighted_line.split()[1])
        terms, _, points = points_line.partition(" = ")[2].partition(" = ")
        floor, tokens, influence = map(Fraction, terms.split(" + "))
        assert (tokens, floor) == (power(weighted, exponent), Fraction(repr(rules.floor)))
        assert floor + tokens + influence == Fraction(points) == Fraction(row["points"])
        total += Fraction(points)
    assert f"points / {text(total)};" in page


def test_nothing_of_a_name_is_markup_and_no_two_look_alike() -> None:
    names = {
        "Ministry & Co": "Ministry &amp; Co",
        "Ministry &amp; Co": "Ministry &amp;amp; Co",
        "~~s~~ $x$": r"\~\~s\~\~ \$x\$",
        "<b>|`*_[a](b)": r"&lt;b&gt;\|\`\*\_\[a\](b)",
    }
    rules = Rewards(fund=Fund(amount=1), floor=1)
    page = render_page(make(rules, {name: OwnerFacts(["CC0-1.0"], {}) for name in names}), "0" * 64)
    for written in names.values():
        assert f"\n| {written} | 1 |" in page and f"\n### {written}\n" in page
