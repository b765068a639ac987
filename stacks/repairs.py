"""What a server-side apply alone does not set right on a live object: additions by others, bindings of volumes.

Each function looks at the live objects and changes only what differs.
"""

from __future__ import annotations

from typing import Any, Protocol

from stacks import volumes
from stacks.additions import additions, removal
from stacks.fields import ABSENT, FieldChange, Object, ObjectRef


class Api(Protocol):
    """What is used of `stacks.kube.Cluster`."""

    def get(self, obj: Object | ObjectRef) -> Object | None: ...
    def find(self, api_version: str, kind: str, namespace: str = "", **selectors: str) -> list[Object]: ...
    def patch(self, ref: ObjectRef, operations: list[dict[str, Any]], /) -> None: ...
    def strip_finalizers(self, obj: Object | ObjectRef) -> None: ...
    def begin_delete(self, ref: ObjectRef) -> None: ...


def unwanted(api: Api, live: Object, manifest: Object) -> list[FieldChange]:
    """What an apply of `manifest` leaves in `live` although it should not be there."""
    found = additions(live, manifest)
    claim = volumes.claim_of(manifest) if live["kind"] == volumes.VOLUME else None
    return found + (volumes.stale_binding(live, api.get(claim)) if claim is not None else [])


def differences(api: Api, live: Object, manifest: Object) -> list[FieldChange]:
    """What an apply of `manifest` repairs beyond its fields."""
    pods = [pod["metadata"]["name"] for pod in stale_tokens(api, live)]
    tokens = [FieldChange(("pods with an earlier token",), pods, ABSENT)] if pods else []
    return unwanted(api, live, manifest) + tokens


def clear(api: Api, manifest: Object) -> None:
    """Remove what is `unwanted`."""
    live = api.get(manifest)
    if live is not None and not live["metadata"].get("deletionTimestamp"):
        _remove(api, live, unwanted(api, live, manifest))


def rebind(api: Api, live: Object) -> None:
    """Let the volume that a waiting claim names take it, when it still waits for an earlier claim of that name."""
    name = (live.get("spec") or {}).get("volumeName") if live["kind"] == volumes.CLAIM else None
    volume = api.get(ObjectRef("v1", volumes.VOLUME, name)) if name else None
    named = volumes.claim_of(volume) if volume is not None else None
    if volume is not None and named is not None and named.identity == ObjectRef.of(live).identity:
        _remove(api, volume, volumes.stale_binding(volume, live))


def bind_again(api: Api, live: Object) -> None:
    """Tell a volume that was deleted by hand and made again which claim has it."""
    claim = volumes.claim_of(live) if live["kind"] == volumes.VOLUME else None
    uid = volumes.lost_binding(live, api.get(claim)) if claim is not None else None
    if uid is not None:
        api.patch(ObjectRef.of(live), [{"op": "add", "path": "/spec/claimRef/uid", "value": uid}])


def let_go(api: Api, live: Object) -> None:
    """End the deletion of a claim or volume whose data stays, so that it can be made again.

    Somebody deleted it while it was in use; its protection would hold it until the last pod ends, which is never.
    """
    ref = ObjectRef.of(live)
    if ref.kind == volumes.VOLUME and volumes.is_retained(live):
        api.strip_finalizers(ref)
    name = live["spec"].get("volumeName") if ref.kind == volumes.CLAIM else None
    if name and volumes.is_retained(api.get(ObjectRef("v1", volumes.VOLUME, name))):
        for pod in api.find("v1", "Pod", ref.namespace or "default"):
            if volumes.mounts(pod, ref.name) and not pod["metadata"].get("deletionTimestamp"):
                api.begin_delete(ObjectRef.of(pod))


def stale_tokens(api: Api, live: Object) -> list[Object]:
    """Pods that are older than their ServiceAccount: it was deleted and made again, and their tokens are refused."""
    if live["kind"] != "ServiceAccount":
        return []
    ref, made = ObjectRef.of(live), live["metadata"]["creationTimestamp"]
    return [
        pod
        for pod in api.find("v1", "Pod", ref.namespace or "default")
        if pod["spec"].get("serviceAccountName") == ref.name
        and pod["spec"].get("automountServiceAccountToken") is not False
        and pod["metadata"]["creationTimestamp"] < made
        and not pod["metadata"].get("deletionTimestamp")
    ]


def renew_tokens(api: Api, live: Object) -> None:
    """Delete pods with stale tokens; what owns them starts others."""
    for pod in stale_tokens(api, live):
        api.begin_delete(ObjectRef.of(pod))


def _remove(api: Api, live: Object, found: list[FieldChange]) -> None:
    if found:
        api.patch(ObjectRef.of(live), removal(found, live["metadata"]["resourceVersion"]))
