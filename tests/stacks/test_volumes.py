"""What a claim can have, and bindings whose claim is gone."""

from __future__ import annotations

from typing import Any

import pytest

from stacks.fields import Object, ObjectRef
from stacks.volumes import claim_of, lost_binding, mounts, reachable, stale_binding


def claim(storage: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "objects", "namespace": "lake", "uid": "1"},
        "spec": {"resources": {"requests": {"storage": storage}}, **spec},
        "status": {"phase": "Bound"},
    }


def volume(**fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}, **fields}


class Cluster:
    """Volumes and storage classes of a cluster."""

    def __init__(self, *, provisioned: bool, expandable: bool) -> None:
        annotations = {"pv.kubernetes.io/provisioned-by": "csi.example.org"} if provisioned else {}
        self.volume = volume(metadata={"name": "v", "annotations": annotations})
        self.classes: list[Object] = [{"metadata": {"name": "fast"}, "allowVolumeExpansion": expandable}]

    def get(self, obj: Object | ObjectRef) -> Object | None:
        return self.volume

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        return self.classes


@pytest.mark.parametrize(
    ("asked", "provisioned", "expandable", "phase", "told"),
    [
        ("20G", True, True, "Bound", ""),
        ("10G", False, False, "Bound", ""),
        ("10000M", False, False, "Bound", ""),
        ("20G", False, True, "Bound", "was not made by a storage class"),
        ("20G", True, False, "Bound", "allowVolumeExpansion"),
        ("20G", True, True, "Pending", "not bound yet"),
        ("5G", True, True, "Bound", "never shrinks"),
    ],
)
def test_k4_a_claim_grows_only_where_it_can(
    asked: str, provisioned: bool, expandable: bool, phase: str, told: str
) -> None:
    cluster = Cluster(provisioned=provisioned, expandable=expandable)
    live = claim("10G", volumeName="v", storageClassName="fast") | {"status": {"phase": phase}}
    result, text = reachable(claim(asked), live, cluster.get, cluster.find)
    assert told in text and bool(text) == bool(told)
    assert result["spec"]["resources"]["requests"]["storage"] == ("10G" if told else asked)


def test_k4_a_new_claim_asks_for_what_it_says() -> None:
    cluster = Cluster(provisioned=False, expandable=False)
    assert reachable(claim("20G"), None, cluster.get, cluster.find) == (claim("20G"), "")


def test_k3_a_volume_forgets_a_claim_that_is_gone_or_was_made_again() -> None:
    bound = volume(spec={"claimRef": {"name": "objects", "namespace": "lake", "uid": "1", "resourceVersion": "9"}})
    assert stale_binding(bound, claim("1G")) == []
    again = claim("1G") | {"metadata": {"name": "objects", "namespace": "lake", "uid": "2"}}
    for live in (None, again):
        assert [change.name for change in stale_binding(bound, live)] == [
            "spec.claimRef.uid",
            "spec.claimRef.resourceVersion",
        ]
    assert stale_binding(volume(spec={"claimRef": {"name": "objects"}}), None) == []
    assert claim_of(bound) == ObjectRef("v1", "PersistentVolumeClaim", "objects", "lake")


def test_k3_a_volume_that_was_made_again_is_told_of_its_claim() -> None:
    again = volume(spec={"claimRef": {"name": "objects", "namespace": "lake"}})
    live = claim("1G", volumeName="v")
    assert lost_binding(again, live) is None, "never bound: the ordinary way is open"
    live["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
    assert lost_binding(again, live) == "1"
    assert lost_binding(again, None) is None


def test_k3_pods_that_use_a_claim_are_known() -> None:
    pod = {"spec": {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "objects"}}]}}
    assert mounts(pod, "objects") and not mounts(pod, "other") and not mounts({"spec": {}}, "objects")
