"""PropertyValue <-> plain Python, also over the wire that the engine uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pulumi.provider.experimental.property_value import PropertyValue

from stacks.provider.values import UNKNOWN, has_unknown, secret_texts, to_plain, to_value, with_secret_keys

KEYS = st.text("ab.é中", min_size=1, max_size=3)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.just(UNKNOWN)
)
PLAIN = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@settings(deadline=None)
@given(PLAIN)
def test_plain_values_survive_the_way_to_the_engine_and_back(plain: Any) -> None:
    assert to_plain(PropertyValue.unmarshal(to_value(plain).marshal())) == plain


@settings(deadline=None)
@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_come_back_as_integers(number: int) -> None:
    back = to_plain(to_value(number))
    assert back == number and isinstance(back, int)


@settings(deadline=None)
@given(PLAIN, st.data())
def test_secrets_are_kept_where_they_were(plain: Any, data: st.DataObject) -> None:
    marked = _mark_some(to_value(plain), data)
    assert to_value(to_plain(marked), like=marked) == marked


def _mark_some(value: PropertyValue, data: st.DataObject) -> PropertyValue:
    inner = value.value
    if isinstance(inner, tuple):
        value = value.with_value([_mark_some(item, data) for item in inner])
    elif isinstance(inner, Mapping):
        value = value.with_value({key: _mark_some(item, data) for key, item in inner.items()})
    return value.with_secret(data.draw(st.booleans()))


def test_only_the_named_keys_become_secret() -> None:
    value = with_secret_keys(to_value({"kind": "Secret", "data": {"a": "x"}, "stringData": {"b": "y"}}), ("data",))
    assert list(secret_texts(value)) == ["x"]


def test_secret_texts_are_found_at_any_depth() -> None:
    inner = PropertyValue([PropertyValue("hidden", is_secret=True), PropertyValue("shown")])
    whole = PropertyValue({"b": PropertyValue("hidden too")}, is_secret=True)
    assert list(secret_texts(PropertyValue({"a": inner, "c": whole}))) == ["hidden", "hidden too"]


def test_unknown_is_found_at_any_depth_and_is_no_secret_text() -> None:
    assert has_unknown({"a": [1, {"b": UNKNOWN}]}) and not has_unknown({"a": [1, "UNKNOWN"]})
    assert list(secret_texts(to_value(UNKNOWN).with_secret(True))) == []


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        to_value({"a": {1, 2}})
    with pytest.raises(TypeError, match="StringAsset"):
        to_plain(PropertyValue(pulumi.StringAsset("x")))
