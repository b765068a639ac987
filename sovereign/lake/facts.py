"""What the documents about a dataset rest on: its manifest, the receipts of its stages, and a census of its columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sovereign.errors import ProofError
from sovereign.files import sha256_bytes
from sovereign.lake.census import Census, take_census
from sovereign.lake.dataset import Dataset
from sovereign.lake.demonstration import SOURCE as DEMONSTRATION
from sovereign.lake.intake import Takes
from sovereign.lake.manifest import is_current
from sovereign.lake.proofs import Anchor, read_anchor
from sovereign.lake.rights import is_of_rights
from sovereign.profile import Profile
from sovereign.profile_cleaning import Cleaning


@dataclass(frozen=True)
class Facts:
    """All that is known of a dataset."""

    profile: Profile
    manifest: Mapping[str, Any]
    manifest_sha256: str
    anchor: Anchor
    """Name, size and root of the documents' tree."""
    gathered: Mapping[str, Any]
    """Numbers of stage `corpus`; empty where the dataset was made without it."""
    gathered_at: str | None
    """When that stage ended, ISO 8601."""
    cleaned: Mapping[str, Any]
    """Numbers of stage `curate`."""
    cleaned_at: str
    """When that stage ended, ISO 8601."""
    rules: Cleaning | None
    """What the dataset was cleaned by; None where the profile says something else by now."""
    taken_back: int
    """Documents that were taken back since the dataset was made."""
    census: Census
    """Of all documents, or of those only that training takes."""

    @cached_property
    def sources(self) -> dict[str, Mapping[str, Any]]:
        """The manifest's entries of sources by name, also of those that nothing was kept of."""
        return {entry["sovereign:source"]: entry for entry in self.manifest["sovereign:sources"]}

    @property
    def rights(self) -> Iterator[tuple[str, str, int]]:
        """Source, reason and number of what was left out because of somebody's rights, while reading and after."""
        for name, entry in self.sources.items():
            for one in entry["sovereign:leftOut"]:
                if is_of_rights(one["sovereign:reason"]):
                    yield name, one["sovereign:reason"], one["sovereign:records"]

    @property
    def made_at(self) -> str:
        """No document was collected after this, ISO 8601."""
        return self.gathered_at or self.cleaned_at

    def domain(self, source: str) -> str:
        """What a source's text is about or for, where the profile says that; else its name."""
        return self.profile.corpus.domains.get(source, source)

    def report(self, source: str) -> Mapping[str, Any]:
        """What reading a source gave: `found`, `documents`, `skipped` by reason; empty where it is not known."""
        key = DEMONSTRATION if source == DEMONSTRATION else f"source {source}"
        found: Mapping[str, Any] = self.gathered.get(key, {})
        return found


def gather_facts(profile: Profile, dataset: Dataset, takes: Takes | None = None) -> Facts:
    """Read manifest and receipts, and take the census.

    Args:
        profile: the site's.
        dataset: the version to tell about.
        takes: which of the documents to train on are counted; None: all.

    Raises:
        ProofError: there is no manifest, or it is of other files.
        PlanError: what the profile asks for cannot fit.
        StoreError: a file is missing or not what its receipt says.
    """
    content, manifest = _read_manifest(dataset)
    parents = dataset.parents
    return Facts(
        profile=profile,
        manifest=manifest,
        manifest_sha256=sha256_bytes(content),
        anchor=read_anchor(content),
        gathered=parents["corpus"].metrics if "corpus" in parents else {},
        gathered_at=parents["corpus"].finished_at if "corpus" in parents else None,
        cleaned=parents["curate"].metrics,
        cleaned_at=parents["curate"].finished_at,
        rules=profile.corpus.cleaning if dataset.is_made_by(profile) else None,
        taken_back=dataset.count_taken_back(profile),
        census=take_census(dataset, takes),
    )


def _read_manifest(dataset: Dataset) -> tuple[bytes, dict[str, Any]]:
    key, again = f"{dataset.prefix}manifest.json", "sovereign lake manifest PROFILE"
    if not dataset.store.exists(key):
        raise ProofError(f"dataset {dataset.name} has no manifest", hint=again)
    content = dataset.store.get_bytes(key)
    try:
        manifest: dict[str, Any] = json.loads(content)
        files = [one for one in manifest["distribution"] if one["@type"] == "cr:FileObject"]
        described = {one["@id"]: one["sha256"] for one in files}
        current = is_current(manifest, dataset)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProofError(f"{key} is no manifest: {type(error).__name__}", hint=f"{again} makes it anew") from error
    if described != dataset.files:
        raise ProofError("the manifest is of other files than the dataset has now", hint=f"{again} makes it anew")
    if not current:
        raise ProofError(
            "the stages have run again since the manifest was made, or it is of an earlier version of the kit",
            hint=f"{again} makes it anew",
        )
    return content, manifest
