"""Fields of Kubernetes objects: which object it is, where two versions differ, and how a field is named.

Pure functions over plain dictionaries; no network. Field paths are written as Pulumi writes property paths:
`spec.template.spec.containers[0].image`, `data["ca.crt"]`.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Path = tuple[str | int, ...]
Identity = tuple[str, str, str, str]
"""API group, kind, namespace and name; the namespace is empty for the default one and for what belongs to none."""

# Set by the API server on every write, or owned by controllers: never a difference between wanted and live.
_SERVER_METADATA = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink")
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True)
class ObjectRef:
    """Which object: `namespace` is empty for what belongs to no namespace (or is in the default one)."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    @property
    def group(self) -> str:
        """API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]

    @property
    def id(self) -> str:
        """`apiVersion/kind/namespace/name`, what `pulumi import` takes."""
        return f"{self.api_version}/{self.kind}/{self.namespace}/{self.name}"

    @property
    def identity(self) -> Identity:
        """What makes it the same object; the API's version is not part of it."""
        namespace = "" if self.namespace == "default" else self.namespace
        return (self.group, self.kind, namespace, self.name)

    @property
    def manifest(self) -> Object:
        """The smallest manifest of the object: what names it."""
        metadata = {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @classmethod
    def of(cls, obj: Object) -> ObjectRef:
        """The reference of a manifest or a live object."""
        metadata = obj["metadata"]
        return cls(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace") or "")

    @classmethod
    def parse(cls, text: str) -> ObjectRef:
        """Inverse of `id`.

        Raises:
            ValueError: when `text` does not have that form.
        """
        parts = text.rsplit("/", 3)
        if len(parts) != 4 or not all((parts[0], parts[1], parts[3])):
            raise ValueError(f"{text!r} is not of the form apiVersion/kind/namespace/name")
        return cls(parts[0], parts[1], parts[3], parts[2])


@dataclass(frozen=True)
class FieldChange:
    """One field that an apply would change; `live` or `wanted` is `ABSENT` where there is none."""

    path: Path
    live: Any = field(repr=False)
    wanted: Any = field(repr=False)
    secret: bool = False

    @property
    def name(self) -> str:
        """The path as text; empty for the whole object."""
        return format_path(self.path)

    def __str__(self) -> str:
        if not self.path:
            return "the object is missing" if self.live is ABSENT else "the whole object"
        if self.secret:
            return f"{self.name} (secret)"
        return f"{self.name}: {_brief(self.live)}, should be {_brief(self.wanted)}"


def format_path(path: Path) -> str:
    """`("spec", "ports", 0, "a.b")` as `spec.ports[0]["a.b"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def changes_between(live: Any, wanted: Any, path: Path = ()) -> Iterator[FieldChange]:
    """The deepest fields in which `live` and `wanted` differ; lists of different length differ as a whole."""
    if isinstance(live, dict) and isinstance(wanted, dict):
        for key in [*live, *(key for key in wanted if key not in live)]:
            yield from changes_between(live.get(key, ABSENT), wanted.get(key, ABSENT), (*path, key))
    elif isinstance(live, list) and isinstance(wanted, list) and len(live) == len(wanted):
        for index, (one, other) in enumerate(zip(live, wanted, strict=True)):
            yield from changes_between(one, other, (*path, index))
    elif live != wanted:
        yield FieldChange(path, live, wanted)


def comparable(obj: Object) -> Object:
    """`obj` without what the server and controllers write: status and the bookkeeping of metadata."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _SERVER_METADATA}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": metadata}


def with_changes(manifest: Object, changes: list[FieldChange]) -> Object:
    """A copy of `manifest` in which each changed field holds its live value: what a refresh puts into the state.

    Fields that the manifest does not mention are added; inside lists, whose order the server may keep differently, the
    field is only changed when it is there.
    """
    result = copy.deepcopy(manifest)
    for change in changes:
        _put(result, change.path, change.live)
    return result


def _put(node: Any, path: Path, value: Any) -> None:
    for part in path[:-1]:
        if isinstance(part, int):
            if not isinstance(node, list) or part >= len(node):
                return
        elif not isinstance(node, dict):
            return
        else:
            node.setdefault(part, {})
        node = node[part]
    last = path[-1]
    if isinstance(last, int):
        if isinstance(node, list) and last < len(node):
            node[last] = value
    elif isinstance(node, dict):
        if value is ABSENT:
            node.pop(last, None)
        else:
            node[last] = value


def known_prefix(path: Path, *objects: Object) -> Path:
    """The longest beginning of `path` that exists in one of `objects`."""
    best = 0
    for obj in objects:
        node: Any = obj
        for depth, part in enumerate(path, start=1):
            if isinstance(part, int):
                if not isinstance(node, list) or part >= len(node):
                    break
            elif not isinstance(node, dict) or part not in node:
                break
            node = node[part]
            best = max(best, depth)
    return path[:best]


def normalised(obj: Object) -> Object:
    """What is sent for `obj`: a Secret's stringData becomes data, since the server never gives stringData back."""
    if obj.get("kind") != "Secret" or "stringData" not in obj:
        return obj
    encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in (obj["stringData"] or {}).items()}
    rest = {key: value for key, value in obj.items() if key != "stringData"}
    return {**rest, "data": {**(obj.get("data") or {}), **encoded}}


def _brief(value: Any) -> str:
    text = "absent" if value is ABSENT else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
