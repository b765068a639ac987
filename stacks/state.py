"""A site's Pulumi state, read without the engine: a JSON file for each stack. Imports no pulumi."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign.errors import SiteError
from sovereign.files import write_atomic
from sovereign.site import Site
from sovereign.workload import ServedModel
from stacks.fields import ObjectRef

PROJECT = "sovereign"


_MANAGED = ("sovereign:index:Manifest", "sovereign:index:Node")


@dataclass(frozen=True)
class Record:
    """A Kubernetes object in the state of a stack."""

    urn: str
    ref: ObjectRef
    keep: bool = False


@dataclass(frozen=True)
class StackState:
    """What the state of a stack says."""

    resources: tuple[str, ...] = ()
    """Names of managed objects in Pulumi, and `node`."""
    records: tuple[Record, ...] = ()
    """The managed objects themselves."""
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
    """The state of `stack`, from a copy where the file is damaged; empty when it was never deployed.

    Raises:
        SiteError: the file and its copies are damaged.
    """
    path = state_file(site, stack)
    if not path.exists():
        return StackState()
    return _parse(_first_whole(path)[1])


def repair_state(site: Site, stack: str) -> bool:
    """Copy the state of `stack` aside, or put a copy in place of a damaged one, which is kept; whether it was damaged.

    Pulumi writes the file without waiting for the disk, so a power cut can leave half of it, and of its own copy.

    Raises:
        SiteError: see `read_state`.
    """
    path = state_file(site, stack)
    if not path.exists():
        return False
    found, data = _first_whole(path)
    if found == path:
        if not (copy := _copies(path)[1]).exists() or copy.read_bytes() != data:
            write_atomic(copy, data, mode=0o600)
        return False
    path.replace(path.with_suffix(".json.damaged"))
    write_atomic(path, data, mode=0o600)
    return True


def _copies(path: Path) -> tuple[Path, Path]:
    """Pulumi's own copy of the state before, and ours, which is on the disk for certain."""
    return path.with_suffix(".json.bak"), path.with_suffix(".json.safe")


def _first_whole(path: Path) -> tuple[Path, bytes]:
    for each in (path, *_copies(path)):
        try:
            data = each.read_bytes()
            _parse(data)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        return each, data
    raise SiteError(
        f"the state {path} is damaged",
        expected="a checkpoint of Pulumi, as JSON",
        hint="restore it from a backup; without one remove it and deploy again, which takes over what is there",
    )


def _parse(data: bytes) -> StackState:
    record = json.loads(data)
    latest = record["checkpoint"].get("latest") or {}
    resources = latest.get("resources") or []
    outputs: dict[str, Any] = {}
    for resource in resources:
        if resource["type"] == "pulumi:pulumi:Stack":
            outputs = {key: value for key, value in (resource.get("outputs") or {}).items() if not _is_secret(value)}
    managed = [item for item in resources if item["type"] in _MANAGED and not item.get("delete")]
    return StackState(
        resources=tuple(item["urn"].rpartition("::")[2] for item in managed),
        records=tuple(record for item in managed if (record := _record(item)) is not None),
        outputs=outputs,
        pending=bool(latest.get("pending_operations")),
    )


def _record(resource: dict[str, Any]) -> Record | None:
    """The object of a resource; None for the node, and where the state names no object."""
    inputs = resource.get("inputs") or {}
    try:
        return Record(resource["urn"], ObjectRef.of(inputs["manifest"]), bool(inputs.get("keep")))
    except (KeyError, TypeError):  # the node, or a manifest that is secret as a whole
        pass
    try:
        return Record(resource["urn"], ObjectRef.parse(str(resource.get("id", ""))), bool(inputs.get("keep")))
    except ValueError:
        return None


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and "4dabf18193072939515e22adb298388d" in value


def served(site: Site) -> ServedModel | None:
    """The model that the serving stack was last deployed with."""
    outputs = read_state(site, "serving").outputs
    return ServedModel(outputs["champion"], outputs.get("gguf")) if outputs.get("champion") else None
