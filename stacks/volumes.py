"""Claims and volumes: the API server lets few of their fields change, and a binding outlives the claim that it names.

`reachable` is the part of a claim that can be had; `stale_binding` finds a volume that waits for a claim that is gone.
"""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Protocol

from kubernetes.utils.quantity import parse_quantity

from stacks.fields import ABSENT, FieldChange, Object, ObjectRef, Path
from stacks.readiness import Find

CLAIM, VOLUME = "PersistentVolumeClaim", "PersistentVolume"
_BINDING: tuple[Path, ...] = (("spec", "claimRef", "uid"), ("spec", "claimRef", "resourceVersion"))


class Get(Protocol):
    """`Cluster.get`: a live object, None when it is not there."""

    def __call__(self, obj: Object | ObjectRef) -> Object | None: ...


def reachable(claim: Object, live: Object | None, get: Get, find: Find) -> tuple[Object, str]:
    """`claim` with the storage that it can have now, and in words what it asks for in vain (empty: nothing).

    A claim grows when its volume was provisioned by a class that allows it. The claim of a static volume, an unbound
    claim and one that should shrink stay as they are: the API server refuses the change, and a deploy would end there.
    """
    asked = _storage(claim)
    has = _storage(live) if live is not None else None
    if live is None or asked is None or has is None or (more := _bytes(asked) - _bytes(has)) == 0:
        return claim, ""
    reason = _why_not(live, get, find) if more > 0 else _SMALLER
    if not reason:
        return claim, ""
    result = copy.deepcopy(claim)
    result["spec"]["resources"]["requests"]["storage"] = has
    return result, f"{ObjectRef.of(claim)} keeps its {has}, {asked} were asked for: {reason}"


_SMALLER = "a claim never shrinks; to make it smaller, save its data, delete it and deploy again"


def _why_not(live: Object, get: Get, find: Find) -> str:
    name = live["spec"].get("volumeName")
    if not name or (live.get("status") or {}).get("phase") != "Bound":
        return "it is not bound yet; deploy again when it is"
    volume = get(ObjectRef("v1", VOLUME, name))
    provisioner = ((volume or {}).get("metadata", {}).get("annotations") or {}).get("pv.kubernetes.io/provisioned-by")
    if not provisioner:
        return (
            f"its volume {name} was not made by a storage class and cannot be resized. A folder of this machine holds "
            "what its disk holds, whatever the claim says; for any other volume, move the data to a larger one"
        )
    class_name = live["spec"].get("storageClassName")
    classes = [one for one in find("storage.k8s.io/v1", "StorageClass") if one["metadata"]["name"] == class_name]
    if not any(one.get("allowVolumeExpansion") for one in classes):
        return (
            f"its storage class {class_name} does not allow it. Set allowVolumeExpansion there if the driver can, or "
            "move the data to a larger claim"
        )
    return ""


def _bytes(quantity: str) -> Decimal:
    return Decimal(parse_quantity(quantity))  # type: ignore[no-untyped-call]


def _storage(claim: Object | None) -> str | None:
    spec = (claim or {}).get("spec") or {}
    value = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    return None if value is None else str(value)


def stale_binding(volume: Object, claim: Object | None) -> list[FieldChange]:
    """What to remove from a volume so that it takes the claim that its claimRef names: the UID of an earlier one.

    Args:
        volume: the live volume.
        claim: the live claim of the name in its claimRef, None where there is none.
    """
    bound = (volume.get("spec") or {}).get("claimRef") or {}
    if not bound.get("uid") or (claim is not None and claim["metadata"]["uid"] == bound["uid"]):
        return []
    return [FieldChange(path, bound[path[-1]], ABSENT) for path in _BINDING if path[-1] in bound]


def claim_of(volume: Object) -> ObjectRef | None:
    """The claim that a volume, live or declared, is reserved for."""
    bound = (volume.get("spec") or {}).get("claimRef") or {}
    return ObjectRef("v1", CLAIM, bound["name"], bound.get("namespace") or "") if bound.get("name") else None


def lost_binding(volume: Object, claim: Object | None) -> str | None:
    """UID of the claim that has the volume while the volume, made again, does not know it."""
    bound = (volume.get("spec") or {}).get("claimRef") or {}
    if claim is None or bound.get("uid") or claim["metadata"].get("deletionTimestamp"):
        return None
    finished = (claim["metadata"].get("annotations") or {}).get("pv.kubernetes.io/bind-completed")
    has = (claim.get("spec") or {}).get("volumeName") == volume["metadata"]["name"]
    return str(claim["metadata"]["uid"]) if finished and has else None


def is_retained(volume: Object | None) -> bool:
    """Whether the data of a volume stays when its claim goes."""
    return volume is not None and (volume.get("spec") or {}).get("persistentVolumeReclaimPolicy") == "Retain"


def mounts(pod: Object, claim: str) -> bool:
    """Whether the pod uses the claim of that name."""
    volumes = (pod.get("spec") or {}).get("volumes") or []
    return any((volume.get("persistentVolumeClaim") or {}).get("claimName") == claim for volume in volumes)
