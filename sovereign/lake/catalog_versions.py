"""Versions of datasets in the catalog: how they are written on snapshots, and how people name them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from sovereign.errors import CatalogError

KEY, DATASET, VERSION, RECEIPT = "sovereign.key", "sovereign.dataset", "sovereign.version", "sovereign.receipt-key"
"""Properties of a snapshot. KEY tells whether rows were added already."""

_NAMED = 10
"""Versions that an error names at most."""


@dataclass(frozen=True)
class Version:
    """A version of a dataset, as it was recorded."""

    dataset: str
    version: str
    """Digest of what stage `curate` made, as in `parents` of the manifest."""
    snapshot_id: int
    """Of table `documents`."""
    recorded_at: datetime
    summary: Mapping[str, str]
    """Properties and counts of the snapshot."""

    @property
    def name(self) -> str:
        """`DATASET@VERSION`, the version in its first digits."""
        return f"{self.dataset}@{self.version[:12]}"


def summary_of(snapshot: Snapshot) -> dict[str, str]:
    """Properties and counts of a snapshot."""
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}


def time_of(snapshot: Snapshot) -> datetime:
    """When it was committed."""
    return datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)


def snapshots_of(table: Table) -> list[Snapshot]:
    """All snapshots of a table, oldest first."""
    return sorted(table.snapshots(), key=lambda one: one.sequence_number or 0)


def versions_of(documents: Table) -> list[Version]:
    """What was recorded, oldest first; a version that was recorded again is there twice."""
    found = []
    for snapshot in snapshots_of(documents):
        summary = summary_of(snapshot)
        if VERSION in summary:
            version = Version(summary[DATASET], summary[VERSION], snapshot.snapshot_id, time_of(snapshot), summary)
            found.append(version)
    return found


def find_version(versions: Sequence[Version], reference: str) -> Version:
    """The version that `reference` names; of one that was recorded again, the last time.

    Args:
        versions: oldest first.
        reference: `DATASET`, `DATASET@VERSION` or `VERSION`. VERSION is the beginning of the digest (four digits at
            least), a snapshot's id, or a time in ISO 8601, UTC where it names no zone: the newest version of then. A
            dataset alone means its newest version.

    Raises:
        CatalogError: there is none, or more than one; the message names those that there are.
    """
    dataset, at, wanted = reference.partition("@")
    if not at and any(one.dataset == reference for one in versions):
        wanted = ""
    elif not at:
        dataset, wanted = "", reference
    candidates = [one for one in versions if dataset in ("", one.dataset)]
    if dataset and not candidates:
        names = sorted({one.dataset for one in versions})
        raise CatalogError("no such dataset in the catalog", got=dataset, expected=", ".join(names))
    found = _match(candidates, wanted)
    if not found:
        raise CatalogError(f"no such version in the catalog: {reference}", expected=_names(candidates))
    if len({(one.dataset, one.version) for one in found}) > 1:
        raise CatalogError(f"more than one version is meant by {reference}", got=_names(found), hint="name more digits")
    return found[-1]


def _match(candidates: Sequence[Version], wanted: str) -> list[Version]:
    if not wanted:
        return list(candidates[-1:])
    if exact := [one for one in candidates if str(one.snapshot_id) == wanted]:
        return exact
    if re.fullmatch("[0-9a-f]{4,64}", wanted):
        return [one for one in candidates if one.version.startswith(wanted)]
    try:
        moment = datetime.fromisoformat(wanted)
    except ValueError:
        return []
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    newest = {one.dataset: one for one in candidates if one.recorded_at <= moment}
    return list(newest.values())


def _names(versions: Sequence[Version]) -> str:
    names = list(dict.fromkeys(f"{one.name} ({one.recorded_at:%Y-%m-%dT%H:%M:%SZ})" for one in reversed(versions)))
    more = f" and {len(names) - _NAMED} more (sovereign lake history)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
