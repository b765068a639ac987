"""The checkpoints of a run in the store: brought there by all ranks together, kept by policy.

They lie below `<prefix><first 8 digits of the run's digest>/step-<step>/`. COMMIT is stored last and deleted first, so
that half a checkpoint is never taken for a whole one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sovereign.errors import StoreError
from sovereign.store import Store
from training.environment import Ranks
from training.manifest import COMMIT, MANIFEST, METRICS, Commit, Manifest, rank_file, step_of

_UPLOAD_WAIT_S = 300.0
_GRACE_S = 10.0
"""For the files of other ranks when this one has failed: what it failed of may be that they are gone."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay."""

    keep: int
    """The newest ones."""
    every_steps: int | None = None
    """And those whose step is a multiple of this, for good."""

    def kept(self, steps: set[int], newest: int) -> set[int]:
        """Those of `steps` that stay now that `newest` was made.

        Later ones could not be used, or the run would not be here: they must not push out those that can.
        """
        past = {step for step in steps if step <= newest}
        return set(sorted(past)[-self.keep :]) | {
            step for step in past if self.every_steps and step % self.every_steps == 0
        }


class StoredCheckpoints:
    """The store's side of `Checkpoints`."""

    def __init__(self, store: Store, prefix: str, run: str, ranks: Ranks, retention: Retention) -> None:
        """Args: `prefix` of the checkpoints of all runs, ends with '/'; `run` is this one's digest."""
        self._store, self._ranks, self._retention = store, ranks, retention
        self._all_runs, self.prefix = prefix, f"{prefix}{run[:8]}/"
        self._wait_s = _UPLOAD_WAIT_S

    def commits(self) -> set[Commit]:
        """The complete checkpoints of this run."""
        found = set()
        for key in self._store.list(self.prefix):
            step = step_of(key.rpartition("/")[0])
            if key.endswith(f"/{COMMIT}") and step is not None:
                found.add(Commit(step, self._store.get_bytes(key).decode(errors="replace")))
        return found

    def fetch(self, folder: str, name: str, path: Path) -> None:
        """Fetch a file of the checkpoint in `folder`.

        Raises:
            StoreError: it is not there.
        """
        self._store.get_file(f"{self.prefix}{folder}/{name}", path)

    def bring(self, folder: Path, manifest: Manifest) -> None:
        """Store this rank's files; rank 0 waits for the others' and commits.

        Raises:
            StoreError: it cannot be stored, or another rank's file does not appear.
        """
        base, own = f"{self.prefix}{folder.name}/", rank_file(self._ranks.rank)
        if not self._ranks.is_first:
            self._store.put_file(base + own, folder / own)
            # Rank 0 must know that it is this very file, not one of an earlier attempt at the same step.
            self._store.put_bytes(f"{base}{own}.sha256", manifest.files[own].encode())
            return
        self._store.delete(base + COMMIT)
        for name in (own, METRICS):
            self._store.put_file(base + name, folder / name)
        for rank in range(1, self._ranks.world_size):
            self._await(base + rank_file(rank), manifest.files[rank_file(rank)])
        for name in (MANIFEST, COMMIT):
            self._store.put_file(base + name, folder / name)
        self._forget(manifest.step)

    def hurry(self) -> None:
        """Wait for other ranks' files a moment only, also where `bring` waits now."""
        self._wait_s = _GRACE_S

    def _await(self, key: str, digest: str) -> None:
        start = time.monotonic()
        marker = f"{key}.sha256"
        while not (self._store.exists(marker) and self._store.get_bytes(marker).decode() == digest):
            if time.monotonic() - start > self._wait_s:
                raise StoreError(f"{key} did not appear", hint="is the other training process alive?")
            time.sleep(0.2)

    def _forget(self, newest: int) -> None:
        keys = list(self._store.list(self.prefix))
        complete = {step_of(key.rpartition("/")[0]) for key in keys if key.endswith(f"/{COMMIT}")}
        kept = self._retention.kept({step for step in complete if step is not None}, newest)
        forgotten = [key for key in keys if step_of(key.rpartition("/")[0]) not in kept]
        for key in sorted(forgotten, key=lambda key: not key.endswith(COMMIT)):
            self._store.delete(key)

    def other_runs(self) -> Iterator[tuple[str, Manifest]]:
        """Folder in the store and manifest of the checkpoints of other runs, as far as this version can read them."""
        for key in self._store.list(self._all_runs):
            if key.endswith(f"/{MANIFEST}") and not key.startswith(self.prefix):
                with suppress(ValidationError):
                    yield key.rpartition("/")[0], Manifest.model_validate_json(self._store.get_bytes(key))


def forget_other_runs(store: Store, prefix: str, run: str) -> None:
    """Delete the checkpoints of runs with another configuration than the one with the digest `run`; see the class."""
    for key in store.list(prefix):
        if not key.startswith(f"{prefix}{run[:8]}/"):
            store.delete(key)
