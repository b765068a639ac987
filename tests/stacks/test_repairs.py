"""Repairs that a server-side apply alone does not make, against a few objects in memory."""

from __future__ import annotations

from typing import Any

from stacks.fields import Object, ObjectRef
from stacks.repairs import differences, let_go, renew_tokens


class Api:
    """Live objects, and what was asked for them."""

    def __init__(self, *objects: Object) -> None:
        self.objects = {ObjectRef.of(item).identity: item for item in objects}
        self.deleted: list[str] = []
        self.stripped: list[str] = []

    def get(self, obj: Object | ObjectRef) -> Object | None:
        return self.objects.get((obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)).identity)

    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]:
        return [item for (_, one, space, _), item in self.objects.items() if (one, space) == (kind, namespace)]

    def patch(self, ref: ObjectRef, operations: list[dict[str, Any]]) -> None:
        raise AssertionError("nothing to patch here")

    def strip_finalizers(self, obj: Object | ObjectRef) -> None:
        self.stripped.append((obj if isinstance(obj, ObjectRef) else ObjectRef.of(obj)).name)

    def begin_delete(self, ref: ObjectRef) -> None:
        self.deleted.append(ref.name)


def pod(name: str, made: str = "2026-01-01T00:00:00Z", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "q", "creationTimestamp": made}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_k3_pods_with_a_token_of_an_earlier_service_account_start_again() -> None:
    metadata = {"name": "manager", "namespace": "q", "creationTimestamp": "2026-01-02T00:00:00Z"}
    account: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    api = Api(
        pod("old", serviceAccountName="manager"),
        pod("new", "2026-01-03T00:00:00Z", serviceAccountName="manager"),
        pod("without-token", serviceAccountName="manager", automountServiceAccountToken=False),
        pod("other", serviceAccountName="default"),
    )
    (told,) = differences(api, account, account)
    assert "old" in str(told)
    renew_tokens(api, account)
    assert api.deleted == ["old"]


def test_k3_a_claim_in_use_is_let_go_only_where_its_data_stays() -> None:
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "q"},
        "spec": {"volumeName": "v"},
    }
    user = pod("user", volumes=[{"name": "x", "persistentVolumeClaim": {"claimName": "data"}}])
    for policy, deleted in (("Retain", ["user"]), ("Delete", [])):
        volume: Object = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "v"},
            "spec": {"persistentVolumeReclaimPolicy": policy},
        }
        api = Api(user, pod("other", volumes=[]), volume)
        let_go(api, claim)
        let_go(api, volume)
        assert api.deleted == deleted and api.stripped == (["v"] if deleted else [])
