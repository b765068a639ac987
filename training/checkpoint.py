"""Checkpoints: written aside and fsynced, SHA-256 of every file, COMMIT last; verified before anything is read.

A checkpoint is a folder `step-00000100` with
    model.safetensors          the weights (rank 0)
    rank-00000.safetensors     a rank's part of the optimizer's state, and its random states
    metrics.jsonl              the record of the run so far (rank 0)
    manifest.json              run digest, step, ranks, SHA-256 of every file, resolved configuration, code version
    COMMIT                     SHA-256 of manifest.json
on each rank's disk (its own files only) and in the store below `<prefix><first 8 digits of the run digest>/`, where
a thread brings it. The order of the data is a function of the step, so the step is the cursor. Nothing is unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.errors import CheckpointError, StoreError
from sovereign.files import sha256_bytes, sha256_file, sync_folder, write_atomic
from sovereign.receipts import code_version
from sovereign.store import Store
from training.environment import Ranks

if TYPE_CHECKING:
    import torch

WEIGHTS, METRICS, MANIFEST, COMMIT = "model.safetensors", "metrics.jsonl", "manifest.json", "COMMIT"
KEPT = 2
"""Checkpoints that are kept, on disk and in the store."""
_UPLOAD_WAIT_S = 300.0
_STEP = re.compile(r"step-(\d{8,})$")


def rank_file(rank: int) -> str:
    """Name of the file with what only this rank has."""
    return f"rank-{rank:05}.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is."""

    run: str
    """Digest of configuration and inputs: only the same run goes on from it."""
    step: int
    """Steps done; the next one has this number."""
    world_size: int
    files: dict[str, str]
    """SHA-256 of every file."""
    config: dict[str, Any]
    """The resolved configuration."""
    code_version: str = field(default_factory=code_version)


def verify(folder: Path, names: set[str]) -> Manifest:
    """Check COMMIT, manifest and the files `names` of a checkpoint.

    Raises:
        CheckpointError: one of them is missing or not what was written.
    """
    try:
        manifest_bytes = (folder / MANIFEST).read_bytes()
        if (folder / COMMIT).read_text() != sha256_bytes(manifest_bytes):
            raise CheckpointError(f"{folder / MANIFEST} is not what was committed")
        manifest = Manifest(**json.loads(manifest_bytes))
        for name in sorted(names):
            found, expected = sha256_file(folder / name), manifest.files.get(name)
            if found != expected:
                raise CheckpointError(f"{folder / name} is damaged", got=found, expected=expected)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} is incomplete: {error}") from error
    return manifest


class Checkpoints:
    """The checkpoints of one run, as one rank sees them."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        folder: Path,
        run: str,
        ranks: Ranks,
        *,
        gather: Callable[[Any], list[Any]],
        warn: Callable[[str], None],
    ) -> None:
        """Args: `prefix` in the store, ends with '/'; `folder` on this rank's disk; `gather` gives all values."""
        self._store, self._run, self._ranks, self._gather, self._warn = store, run, ranks, gather, warn
        self._all_runs, self._prefix = prefix, f"{prefix}{run[:8]}/"
        self._folder = folder / run[:8]
        self._names = {rank_file(ranks.rank)} | ({WEIGHTS, METRICS} if ranks.is_first else set())
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._upload: Future[None] | None = None
        shutil.rmtree(self._folder / "part", ignore_errors=True)

    # Reading

    def newest(self) -> tuple[Path, Manifest] | None:
        """Folder and manifest of the newest checkpoint that every rank has complete; None when there is none."""
        local, stored = self._local_steps(), self._stored_steps()
        common = set.intersection(*self._gather(local | stored))
        for step in sorted(common, reverse=True):
            folder = self._folder / f"step-{step:08}"
            manifest, problem = None, None
            try:
                manifest = self._obtain(folder, is_local=step in local, is_stored=step in stored)
            except (CheckpointError, StoreError) as error:
                problem = f"the checkpoint of step {step} is not used: {error}"
            problems = [other for other in self._gather(problem) if other]
            if manifest and not problems:
                return folder, manifest
            self._warn(problems[0])
        return None

    def _obtain(self, folder: Path, *, is_local: bool, is_stored: bool) -> Manifest:
        """Verify the checkpoint on disk, or fetch this rank's files of it."""
        if is_local:
            try:
                return self._verify_own(folder)
            except CheckpointError:
                if not is_stored:
                    raise
        shutil.rmtree(folder, ignore_errors=True)
        for name in (*sorted(self._names), MANIFEST, COMMIT):
            self._store.get_file(f"{self._prefix}{folder.name}/{name}", folder / name)
        return self._verify_own(folder)

    def _verify_own(self, folder: Path) -> Manifest:
        manifest = verify(folder, self._names)
        if (manifest.run, manifest.world_size) != (self._run, self._ranks.world_size):
            raise CheckpointError(f"{folder} is of another run", got=manifest.run, expected=self._run)
        return manifest

    def _local_steps(self) -> set[int]:
        found = (_STEP.search(path.parent.name) for path in self._folder.glob(f"step-*/{COMMIT}"))
        return {int(match[1]) for match in found if match}

    def _stored_steps(self) -> set[int]:
        keys = (key.rpartition("/") for key in self._store.list(self._prefix))
        found = (_STEP.search(folder) for folder, _, name in keys if name == COMMIT)
        return {int(match[1]) for match in found if match}

    # Writing

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        metrics: Path,
        config: dict[str, Any],
    ) -> None:
        """Write the checkpoint after `step` steps to disk and begin to bring it to the store; every rank calls this.

        Args:
            tensors: by file name: this rank's `rank_file`, and on rank 0 `WEIGHTS`.
            metrics: the record of the run, for rank 0.

        Raises:
            CheckpointError: it cannot be written (disk full); the one before is whole.
        """
        self._join_upload()
        folder = self._folder / f"step-{step:08}"
        part = self._folder / "part"
        try:
            digests = self._write_files(part, tensors, metrics)
            files = {name: digest for own in self._gather(digests) for name, digest in own.items()}
            manifest = Manifest(self._run, step, self._ranks.world_size, files, config)
            text = json.dumps(asdict(manifest), indent=1, sort_keys=True)
            write_atomic(part / MANIFEST, text)
            write_atomic(part / COMMIT, sha256_bytes(text.encode()))
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
            sync_folder(self._folder)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint of step {step} cannot be written: {error}", hint="free disk space"
            ) from error
        self._upload = self._uploader.submit(self._bring, folder, manifest)

    def _write_files(
        self, part: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], metrics: Path
    ) -> dict[str, str]:
        from safetensors.torch import save

        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, values in tensors.items():
            write_atomic(part / name, save(dict(values), metadata={"format": "pt"}))
        if self._ranks.is_first:
            write_atomic(part / METRICS, metrics.read_bytes())
        return {path.name: sha256_file(path) for path in part.iterdir()}

    def _bring(self, folder: Path, manifest: Manifest) -> None:
        """Store this rank's files; rank 0 waits for the others' and commits."""
        base = f"{self._prefix}{folder.name}/"
        if self._ranks.is_first:
            self._store.delete(base + COMMIT)
        for name in sorted(self._names):
            self._store.put_file(base + name, folder / name)
        if not self._ranks.is_first:
            # Rank 0 must know that it is this very file, not one of an earlier attempt at the same step.
            name = rank_file(self._ranks.rank)
            self._store.put_bytes(f"{base}{name}.sha256", manifest.files[name].encode())
        else:
            for rank in range(1, self._ranks.world_size):
                self._await(base + rank_file(rank), manifest.files[rank_file(rank)])
            self._store.put_file(base + MANIFEST, folder / MANIFEST)
            self._store.put_file(base + COMMIT, folder / COMMIT)
            self._forget_stored()
        for step in sorted(self._local_steps())[:-KEPT]:
            shutil.rmtree(self._folder / f"step-{step:08}")

    def _await(self, key: str, digest: str) -> None:
        deadline = time.monotonic() + _UPLOAD_WAIT_S
        marker = f"{key}.sha256"
        while not (self._store.exists(marker) and self._store.get_bytes(marker).decode() == digest):
            if time.monotonic() > deadline:
                raise StoreError(f"{key} did not appear", hint="is the other training process alive?")
            time.sleep(0.2)

    def _forget_stored(self) -> None:
        """Delete all but the newest of this run, COMMIT first: half a checkpoint is never taken for a whole one."""
        kept = {f"step-{step:08}" for step in sorted(self._stored_steps())[-KEPT:]}
        keys = [key for key in self._store.list(self._prefix) if key.split("/")[-2] not in kept]
        for key in sorted(keys, key=lambda key: not key.endswith(COMMIT)):
            self._store.delete(key)

    def _join_upload(self) -> None:
        if self._upload is not None:
            try:
                self._upload.result()
            except (StoreError, OSError) as error:
                self._warn(f"a checkpoint could not be stored, training goes on: {error}")
            self._upload = None

    def close(self, *, forget_other_runs: bool = False) -> None:
        """Wait for the upload; when the run is complete, delete the checkpoints of runs with another configuration."""
        self._join_upload()
        self._uploader.shutdown()
        if forget_other_runs and self._ranks.is_first:
            for key in self._store.list(self._all_runs):
                if not key.startswith(self._prefix):
                    self._store.delete(key)
