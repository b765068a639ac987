"""A site's Pulumi state, read without the engine: a JSON file for each stack. Imports no pulumi."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign.site import Site
from sovereign.workload import ServedModel

PROJECT = "sovereign"


@dataclass(frozen=True)
class StackState:
    """What the state of a stack says."""

    resources: tuple[str, ...] = ()
    """Names of managed objects, as `stacks.components.resource_name` makes them, and `node`."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """The stack's outputs; secret ones are not among them."""
    pending: bool = False
    """An operation was cut off."""

    @property
    def deployed(self) -> bool:
        """Whether there is anything."""
        return bool(self.resources)


def state_file(site: Site, stack: str) -> Path:
    """Where the file backend keeps the stack."""
    return site.state_dir / ".pulumi" / "stacks" / PROJECT / f"{stack}.json"


def locks_dir(site: Site) -> Path:
    """Where the file backend keeps its locks."""
    return site.state_dir / ".pulumi" / "locks"


def read_state(site: Site, stack: str) -> StackState:
    """The state of `stack`; empty when it was never deployed."""
    try:
        record = json.loads(state_file(site, stack).read_bytes())
    except FileNotFoundError:
        return StackState()
    latest = record["checkpoint"].get("latest") or {}
    resources = latest.get("resources") or []
    outputs: dict[str, Any] = {}
    for resource in resources:
        if resource["type"] == "pulumi:pulumi:Stack":
            outputs = {key: value for key, value in (resource.get("outputs") or {}).items() if not _is_secret(value)}
    return StackState(
        resources=tuple(
            resource["urn"].rpartition("::")[2]
            for resource in resources
            if resource["type"] in ("sovereign:index:Manifest", "sovereign:index:Node") and not resource.get("delete")
        ),
        outputs=outputs,
        pending=bool(latest.get("pending_operations")),
    )


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and "4dabf18193072939515e22adb298388d" in value


def served(site: Site) -> ServedModel | None:
    """The model that the serving stack was last deployed with."""
    outputs = read_state(site, "serving").outputs
    return ServedModel(outputs["champion"], outputs.get("gguf")) if outputs.get("champion") else None
