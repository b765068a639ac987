"""What others added to an object that this kit owns: fields and list entries that no manifest of ours mentions.

A server-side apply leaves alone what another field manager added, so its dry run does not show it. The managedFields of
the live object do: they name who set which field. Defaults and what admission webhooks inject belong to no manager
there, so they never count. Pure functions; no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from stacks.fields import ABSENT, FieldChange, Object, Path

FIELD_MANAGER: Final = "sovereign"
_CONTROLLERS: Final = (
    "clusterrole-aggregation-controller",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
)
"""Kubernetes' own managers: they bind volumes, scale, allocate and fill in aggregated roles."""
_OPEN: Final = frozenset(("metadata", "status", "data", "stringData", "binaryData", "secrets", "imagePullSecrets"))
"""Top-level fields in which others may add entries of their own."""
_FILLED: Final = frozenset(("caBundle", "annotations", "finalizers"))
"""Fields that controllers fill in wherever they stand: certificates of webhooks, marks of a restart."""
_QUEUED: Final = frozenset(
    (
        ("spec", "suspend"),
        ("spec", "parallelism"),
        ("spec", "completions"),
        ("spec", "template", "metadata", "labels"),
        ("spec", "template", "spec", "nodeSelector"),
        ("spec", "template", "spec", "tolerations"),
        ("spec", "template", "spec", "schedulingGates"),
    )
)
"""What a queue writes into a Job that it admits."""


def additions(live: Object, manifest: Object) -> list[FieldChange]:
    """Fields and list entries that other managers added to `live` and that `manifest` does not mention."""
    paths: set[Path] = set()
    for entry in live["metadata"].get("managedFields") or []:
        if entry.get("manager") in (FIELD_MANAGER, *_CONTROLLERS) or entry.get("subresource"):
            continue
        for key, fields in (entry.get("fieldsV1") or {}).items():
            name = key.removeprefix("f:")
            if name not in _OPEN and name in live:
                paths |= set(_added({key: fields}, live, manifest, ()))
    if live["kind"] == "Job":
        paths = {path for path in paths if not any(path[: len(queued)] == queued for queued in _QUEUED)}
    ordered = sorted(paths, key=_order)
    return [FieldChange(path, _at(live, path), ABSENT) for path in ordered if not _inside(path, paths)]


def removal(changes: list[FieldChange], resource_version: str) -> list[dict[str, Any]]:
    """A JSON patch that removes the fields of `changes`, refused when the object has changed since."""
    paths = sorted((change.path for change in changes), key=_order, reverse=True)  # later entries of a list first
    guard = {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}
    return [guard, *({"op": "remove", "path": pointer(path)} for path in paths)]


def pointer(path: Path) -> str:
    """The path as JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _added(fields: dict[str, Any], live: Any, manifest: Any, path: Path) -> Iterator[Path]:
    for key, inner in fields.items():
        part = _part(key, live)
        if part is None or part in _FILLED:
            continue
        own = _own(key, part, live, manifest)
        if own is ABSENT:
            yield (*path, part)
        elif inner:
            yield from _added(inner, live[part], own, (*path, part))


def _part(key: str, live: Any) -> str | int | None:
    """Where the entry `key` of a field set is in `live`; None when it is not there, and for the node's own mark `.`."""
    kind, _, text = key.partition(":")
    if kind == "f" and isinstance(live, dict):
        return text if text in live else None
    if not isinstance(live, list):
        return None
    if kind == "k":
        keys = json.loads(text)
        return next((i for i, item in enumerate(live) if isinstance(item, dict) and keys.items() <= item.items()), None)
    if kind == "v":
        value = json.loads(text)
        return live.index(value) if value in live else None
    if kind == "i":
        return int(text) if int(text) < len(live) else None
    return None


def _own(key: str, part: str | int, live: Any, manifest: Any) -> Any:
    """What the manifest has at the same place, or ABSENT. A key that it leaves to its default matches."""
    if isinstance(part, str):
        return manifest.get(part, ABSENT) if isinstance(manifest, dict) else ABSENT
    if not isinstance(manifest, list):
        return ABSENT
    if not key.startswith("k:"):
        return live[part] if live[part] in manifest else ABSENT
    keys: dict[str, Any] = json.loads(key[2:])
    for item in manifest:
        if isinstance(item, dict) and all(item.get(name, value) == value for name, value in keys.items()):
            return item
    return ABSENT


def _order(path: Path) -> list[tuple[bool, Any]]:
    return [(isinstance(part, str), part) for part in path]


def _inside(path: Path, paths: set[Path]) -> bool:
    return any(path[:depth] in paths for depth in range(1, len(path)))


def _at(node: Any, path: Path) -> Any:
    for part in path:
        node = node[part]
    return node
