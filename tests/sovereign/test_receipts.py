"""Receipts: canonical, faithful, and what a stage's key depends on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.errors import StoreError
from sovereign.receipts import PREDICATE_TYPE, Receipt, config_digest, stage_key

_numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_digests = st.dictionaries(_text, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=4)


def receipt(**changes: Any) -> Receipt:
    values: dict[str, Any] = {
        "stage": "curate",
        "inputs": {"raw/x/documents-00000.parquet": "ab" * 32},
        "outputs": {"curated/x/train-00000.parquet": "cd" * 32},
        "config_digest": "12" * 32,
        "key": "34" * 32,
        "metrics": {"documents": 3},
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:01+00:00",
        "seconds": 1.0,
        "made_by": "someone@machine",
        "code_version": "0.1.0",
    }
    return Receipt(**values | changes)


@given(inputs=_digests, outputs=_digests, metrics=st.dictionaries(_text, _json, max_size=4))
def test_bytes_round_trip(inputs: dict[str, str], outputs: dict[str, str], metrics: dict[str, Any]) -> None:
    made = receipt(inputs=inputs, outputs=outputs, metrics=metrics)
    assert Receipt.from_bytes(made.to_bytes()) == made
    assert Receipt.from_bytes(made.to_bytes()).to_bytes() == made.to_bytes()


def test_it_is_an_in_toto_statement_about_the_outputs() -> None:
    statement = json.loads(receipt().to_bytes())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"] == [{"name": "curated/x/train-00000.parquet", "digest": {"sha256": "cd" * 32}}]
    assert "outputs" not in statement["predicate"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1])
def test_numbers_that_json_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(StoreError, match="stage curate"):
        receipt(metrics={"loss": value}).to_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b'{"_type": "something"}',
        lambda data: data.replace(b'"seconds":1', b'"seconds":"x"'),
        lambda data: data.replace(b'"stage":', b'"stag":'),
        lambda data: data.replace(b"receipt/v1", b"receipt/v2"),
    ],
)
def test_damage_is_a_store_error(damage: Any) -> None:
    with pytest.raises(StoreError):
        Receipt.from_bytes(damage(receipt().to_bytes()))


@given(config=st.dictionaries(_text, _json, max_size=4), inputs=_digests)
def test_key_depends_on_everything_and_not_on_order(config: dict[str, Any], inputs: dict[str, str]) -> None:
    key = stage_key("curate", 1, config, inputs)
    backwards = dict(reversed(config.items())), dict(reversed(inputs.items()))
    assert stage_key("curate", 1, *backwards) == key
    others = [
        stage_key("corpus", 1, config, inputs),
        stage_key("curate", 2, config, inputs),
        stage_key("curate", 1, {**config, "more": 1, "and": config.get("more")}, inputs),
        stage_key("curate", 1, config, {**inputs, "another": "00"}),
    ]
    assert key not in others
    assert config_digest(config) == config_digest(backwards[0])
