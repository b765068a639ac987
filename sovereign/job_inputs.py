"""What a pod reads before its stage: the profile, and a long file that it names, as objects of the store.

A ConfigMap holds 1 MiB, some 10,000 withdrawals. The objects are named by their digests, which come with the Job.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sovereign.files import sha256_file
from sovereign.profile import Profile, load_profile
from sovereign.store import Store, fetch_checked


class StoredInput(NamedTuple):
    """An object of the store, and what it must be."""

    key: str
    digest: str
    """Hex SHA-256."""


@dataclass(frozen=True)
class JobInputs:
    """What a pod fetches before it runs its stage."""

    profile: StoredInput
    opt_outs: StoredInput | None = None
    """The profile's `corpus.rights.opt_outs.file`, where pods do not see files of this machine."""

    def arguments(self) -> list[str]:
        """Options of `python -m sovereign.stages run`."""
        found = ["--profile", self.profile.key, "--profile-digest", self.profile.digest]
        if self.opt_outs is not None:
            found += ["--opt-outs", self.opt_outs.key, "--opt-outs-digest", self.opt_outs.digest]
        return found


def store_inputs(store: Store, profile: Profile, profile_path: Path, *, sees_files: bool) -> JobInputs:
    """Store what pods read before a stage.

    Args:
        store: the site's store.
        profile: the profile.
        profile_path: its resolved file.
        sees_files: whether pods see the files of this machine that it names.

    Raises:
        StoreError: it cannot be stored.
    """

    def put(path: Path) -> StoredInput:
        digest = sha256_file(path)
        key = f"raw/{profile.name}/inputs/{digest}"
        if not store.exists(key):
            store.put_file(key, path)
        return StoredInput(key, digest)

    opt_outs = profile.corpus.rights.opt_outs.file
    return JobInputs(put(profile_path), put(Path(opt_outs)) if opt_outs and not sees_files else None)


def fetch_inputs(store: Store, inputs: JobInputs, folder: Path) -> Profile:
    """The profile of a pod, its files in `folder`.

    Raises:
        StoreError: an object is missing, or not what its digest says.
        ProfileError: the profile is of another version of the kit.
    """
    profile = load_profile(fetch_checked(store, inputs.profile.key, folder / "profile.yaml", inputs.profile.digest))
    if inputs.opt_outs is None:
        return profile
    file = fetch_checked(store, inputs.opt_outs.key, folder / "opt-outs.jsonl", inputs.opt_outs.digest)
    rights = profile.corpus.rights
    rights = rights.model_copy(update={"opt_outs": rights.opt_outs.model_copy(update={"file": str(file)})})
    return profile.model_copy(update={"corpus": profile.corpus.model_copy(update={"rights": rights})})
