"""Inputs of the resource Manifest: their types and defaults, in plain Python, and what can be wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stacks.fields import Object, ObjectRef
from stacks.provider.values import UNKNOWN, Properties, has_unknown, to_plain

DEFAULTS: Final[dict[str, Any]] = {"wait": True, "timeoutSeconds": 300, "keep": False}
TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "manifest": dict,
    "kubeconfig": str,
    "context": str,
    "clusterUid": str,
    "wait": bool,
    "timeoutSeconds": (int, float),
    "keep": bool,
}
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.:_]{0,251}[A-Za-z0-9])?")  # RBAC allows colons


@dataclass(frozen=True)
class Args:
    """Inputs in plain Python; unknown ones are UNKNOWN, missing ones None."""

    manifest: Any
    kubeconfig: Any
    context: Any
    cluster_uid: Any
    wait: bool
    timeout_s: float
    keep: bool

    @classmethod
    def of(cls, properties: Properties) -> Args:
        plain = {**DEFAULTS, **{key: to_plain(value) for key, value in properties.items()}}
        return cls(
            plain["manifest"], plain.get("kubeconfig"), plain.get("context"), plain.get("clusterUid"),
            plain["wait"], float(plain["timeoutSeconds"]), plain["keep"],
        )  # fmt: skip

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef.of(self.manifest)

    @property
    def unknown(self) -> bool:
        """Whether a value will only be known in the deploy; so it is in previews alone."""
        return has_unknown([self.manifest, self.kubeconfig, self.context, self.cluster_uid])

    @property
    def reachable(self) -> bool:
        """Whether there is a cluster to ask: false in previews before it exists."""
        return not self.unknown and Path(self.kubeconfig).is_file()

    def same_object(self, old: Args) -> bool:
        """Whether this is the object that `old` is, as far as that is known."""
        if self.manifest is UNKNOWN or has_unknown(self.manifest["metadata"]):
            return True
        return self.ref.identity == old.ref.identity


def problems(plain: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and reason of each input that is wrong."""
    found = [(key, f"there is no such input; known: {', '.join(TYPES)}") for key in plain if key not in TYPES]
    found += [(key, "is required") for key in ("manifest", "kubeconfig") if plain.get(key) is None]
    for key, kind in TYPES.items():
        value = plain.get(key)
        if value is not None and value is not UNKNOWN and not isinstance(value, kind):
            found.append((key, f"must not be a {type(value).__name__}"))
    manifest = plain.get("manifest")
    if isinstance(manifest, dict):
        found += _manifest_problems(manifest)
    return found


def _manifest_problems(manifest: Object) -> list[tuple[str, str]]:
    texts = ("apiVersion", "kind")
    found = [(f"manifest.{key}", "must be a text") for key in texts if not isinstance(manifest.get(key), str)]
    if str(manifest.get("kind", "")).endswith("List") and "items" in manifest:
        found.append(("manifest.kind", "a list of objects: one resource holds one object"))
    metadata = manifest.get("metadata")
    if metadata is UNKNOWN:
        return found
    if not isinstance(metadata, dict) or not metadata.get("name"):
        return [*found, ("manifest.metadata.name", "is required; generateName is not supported")]
    for key in ("name", "namespace"):
        value = metadata.get(key)
        if value not in (None, UNKNOWN) and not (isinstance(value, str) and _NAME.fullmatch(value)):
            found.append((f"manifest.metadata.{key}", f"{value!r} is not a name that Kubernetes takes"))
    return found
