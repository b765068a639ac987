"""Objects whose resource moves: which stack declares an object now, and which stack's state still has it.

An object moves to its new stack when that stack is deployed. Until then the old stack holds it as it was deployed;
afterwards the old stack forgets it. So there is always one record of it, and nothing deletes it on the way. Moves
within a stack need no step of their own: the resource takes over the state of the old one (an alias).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sovereign.site import Site
from stacks.engine import Engine
from stacks.fields import Identity
from stacks.identity import identity
from stacks.objects import STACKS, Platform, managed, resource_name
from stacks.state import Record, read_state, state_file


@dataclass(frozen=True)
class Ledger:
    """What the program of a stack needs so that each object keeps its one resource."""

    site: str
    stack: str
    urns: Mapping[Identity, str]
    """URN of each object that the stack's state has."""
    held: tuple[Record, ...] = ()
    """Objects that another stack declares now and that stay here until it is deployed."""


class Moves:
    """Declared and recorded objects of a site; states are read at each call.

    Raises:
        ProfileError: see `stacks.objects.managed`.
    """

    def __init__(self, site: Site, platform: Platform) -> None:
        self._site = site
        self.site_id = platform.site
        self.objects = managed(platform)
        self.declared = {identity(item): stack for stack, items in self.objects.items() for item in items}

    def ledger(self, stack: str) -> Ledger:
        """The ledger for a deploy of `stack`."""
        records = read_state(self._site, stack).records
        elsewhere = self._recorded(other for other in STACKS if other != stack)
        held = tuple(
            record
            for record in records
            if self.declared.get(record.ref.identity, stack) != stack and record.ref.identity not in elsewhere
        )
        return Ledger(self.site_id, stack, {record.ref.identity: record.urn for record in records}, held)

    def arrivals(self, stack: str) -> frozenset[str]:
        """Names of the objects that a deploy of `stack` takes over from another stack."""
        own = self._recorded([stack])
        elsewhere = self._recorded(other for other in STACKS if other != stack)
        return frozenset(
            resource_name(item)
            for item in self.objects[stack]
            if identity(item) in elsewhere and identity(item) not in own
        )

    def release(self, engine: Engine) -> None:
        """Let each stack forget the objects that the stack which declares them has in its state."""
        for stack in STACKS:
            urns = {
                record.urn
                for record in read_state(self._site, stack).records
                if (owner := self.declared.get(record.ref.identity, stack)) != stack
                and record.ref.identity in self._recorded([owner])
            }
            if urns and state_file(self._site, stack).is_file():
                engine.edit(engine.stack(stack), lambda resources, gone=urns: without(resources, gone))  # type: ignore[misc]

    def recorded(self) -> set[Identity]:
        """The objects that some stack of the site has."""
        return self._recorded(STACKS)

    def _recorded(self, stacks: Iterable[str]) -> set[Identity]:
        return {record.ref.identity for stack in stacks for record in read_state(self._site, stack).records}


def without(resources: list[dict[str, Any]], urns: set[str]) -> list[dict[str, Any]]:
    """The resources of a state without those of `urns`, and without references to them."""
    left = [resource for resource in resources if resource["urn"] not in urns]
    for resource in left:
        for names in (resource.get("dependencies"), *(resource.get("propertyDependencies") or {}).values()):
            if names:
                names[:] = [urn for urn in names if urn not in urns]
        if resource.get("deletedWith") in urns:
            del resource["deletedWith"]
    return left
