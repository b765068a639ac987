"""Whose an object is: which site deployed it and through which stack. Recorded on the live object; imports no pulumi.

One object has one identity (API group, kind, namespace, name), however the templates, parts and stacks that declare it
are cut. A site never changes or deletes what another site owns, and a stack never deletes what another stack of the
same site took over. See docs/decisions/0012-identity-of-objects.md.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stacks.fields import Identity, Object, ObjectRef

SITE: Final = "sovereign.local/site"
"""Label: the id of the site that owns the object."""
STACK: Final = "sovereign.local/stack"
"""Annotation: the stack of that site through which the object is deployed."""
ADOPT_VARIABLE: Final = "SOVEREIGN_ADOPT"
"""Set in the environment of an engine whose deploy may take over objects of another site."""
DECLARED_VARIABLE: Final = "SOVEREIGN_DECLARED"
"""Names the file, in the environment of an engine that deploys, with the identities that the site declares."""


@dataclass(frozen=True)
class Owner:
    """What a live object records; None where it records nothing."""

    site: str | None
    stack: str | None

    @classmethod
    def of(cls, obj: Object) -> Owner:
        """The owner that a manifest or a live object names."""
        metadata = obj.get("metadata") or {}
        return cls((metadata.get("labels") or {}).get(SITE), (metadata.get("annotations") or {}).get(STACK))


def owned(item: Object, site: str, stack: str) -> Object:
    """A copy of `item` that records `site` and `stack`."""
    result = copy.copy(item)
    metadata = result["metadata"] = dict(item["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), SITE: site}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), STACK: stack}
    return result


def identity(item: Object) -> Identity:
    """The identity of a manifest or a live object."""
    return ObjectRef.of(item).identity


def write_declared(identities: Iterable[Identity]) -> str:
    """Text of the file that DECLARED_VARIABLE names."""
    return json.dumps(sorted(set(identities)))


def read_declared(environment: Mapping[str, str]) -> frozenset[Identity]:
    """The identities that the running deploy declares; none outside a deploy of the kit."""
    path = environment.get(DECLARED_VARIABLE)
    if not path:
        return frozenset()
    rows: list[tuple[str, str, str, str]] = json.loads(Path(path).read_bytes())
    return frozenset((group, kind, namespace, name) for group, kind, namespace, name in rows)
