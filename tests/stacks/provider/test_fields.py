"""References, field paths and differences of objects."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacks.fields import (
    ABSENT,
    FieldChange,
    ObjectRef,
    changes_between,
    comparable,
    format_path,
    known_prefix,
    normalised,
    with_changes,
)

LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2)
NODES = st.recursive(LEAVES, lambda n: st.lists(n, max_size=3) | st.dictionaries(st.sampled_from("abc"), n, max_size=3))
OBJECTS = st.dictionaries(st.sampled_from("abc"), NODES, max_size=3)


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_changes_put_into_one_object_give_the_other(live: dict[str, Any], wanted: dict[str, Any]) -> None:
    changes = list(changes_between(live, wanted))
    assert with_changes(wanted, changes) == live
    assert bool(changes) == (live != wanted)


@settings(deadline=None)
@given(OBJECTS)
def test_an_object_does_not_differ_from_itself(obj: dict[str, Any]) -> None:
    assert list(changes_between(obj, obj)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("spec", "containers", 0, "image"), "spec.containers[0].image"),
        (("data", "ca.crt"), 'data["ca.crt"]'),
        (("metadata", "labels", "app.kubernetes.io/name"), 'metadata.labels["app.kubernetes.io/name"]'),
        ((), ""),
    ],
)
def test_paths_are_written_as_pulumi_writes_them(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text


def test_lists_of_other_length_differ_as_a_whole() -> None:
    (change,) = changes_between({"a": [1, 2]}, {"a": [1, 2, 3]})
    assert (change.name, change.live, change.wanted) == ("a", [1, 2], [1, 2, 3])


def test_what_the_server_keeps_is_no_difference() -> None:
    metadata = {"name": "x", "labels": {"a": "b"}}
    live = {"kind": "A", "metadata": {**metadata, "uid": "1", "managedFields": []}, "status": {"phase": "Active"}}
    assert comparable(live) == {"kind": "A", "metadata": metadata}


def test_changes_speak_plainly_and_never_of_secrets() -> None:
    assert str(FieldChange(("spec", "n"), 3, 1)) == "spec.n: 3, should be 1"
    assert str(FieldChange(("spec", "n"), ABSENT, 1)) == "spec.n: absent, should be 1"
    assert "hidden" not in f"{(secret := FieldChange(('data', 'k'), 'hidden', 'hidden2', secret=True))}{secret!r}"


@pytest.mark.parametrize("ref", [ObjectRef("apps/v1", "Deployment", "web", "shop"), ObjectRef("v1", "Namespace", "n")])
def test_references_survive_their_text(ref: ObjectRef) -> None:
    assert ObjectRef.parse(ref.id) == ref


@pytest.mark.parametrize("text", ["ConfigMap/a/b", "", "v1//a/b", "v1/ConfigMap/a/"])
def test_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        ObjectRef.parse(text)


def test_version_of_the_api_is_no_part_of_the_identity() -> None:
    old, new = (
        ObjectRef("kueue.x-k8s.io/v1beta1", "ClusterQueue", "q"),
        ObjectRef("kueue.x-k8s.io/v1beta2", "ClusterQueue", "q"),
    )
    assert old.identity == new.identity


def test_paths_are_cut_back_to_what_exists() -> None:
    manifest = {"spec": {"ports": [{"port": 1}]}}
    assert known_prefix(("spec", "ports", 0, "nodePort"), manifest) == ("spec", "ports", 0)
    assert known_prefix(("spec", "ports", 7), {}, manifest) == ("spec", "ports")


def test_string_data_is_sent_as_data() -> None:
    secret = {"kind": "Secret", "data": {"a": "eA=="}, "stringData": {"b": "ü"}}
    assert normalised(secret) == {"kind": "Secret", "data": {"a": "eA==", "b": base64.b64encode("ü".encode()).decode()}}
    assert normalised({"kind": "Widget", "stringData": {}}) == {"kind": "Widget", "stringData": {}}
