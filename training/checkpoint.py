"""Checkpoints: written aside and fsynced, SHA-256 of every file, COMMIT last; verified before anything is read.

What one is: manifest.py. It is on each rank's disk (its own files only) below `<folder>/<first 8 digits of the run's
digest>/` and in the store (stored.py), where a thread brings it. Weights and moments are fragments of whole parameters
(fragments.py): any number of ranks goes on from it. Nothing is unpickled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from sovereign.errors import CheckpointError, StoreError, StoreUnavailableError
from sovereign.files import put_in_place, room_hint, sha256_bytes, sha256_file, sync_folder, write_atomic
from sovereign.receipts import code_version
from training.environment import Ranks
from training.manifest import (
    COMMIT,
    MANIFEST,
    METRICS,
    Commit,
    Manifest,
    Stretch,
    check_file,
    parse_manifest,
    rank_file,
    step_of,
)
from training.stored import Retention, StoredCheckpoints

if TYPE_CHECKING:
    import torch

    from training.fragments import Spans

_ON_DISK = 2
"""Checkpoints that stay on a rank's disk."""
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What is the same in all checkpoints that this process makes."""

    digest: str
    """Of configuration and inputs."""
    zero_stage: int
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each parameter."""
    config: dict[str, Any]
    """The resolved configuration, JSON values."""


@dataclass(frozen=True)
class Found:
    """A verified checkpoint on this rank's disk, with the files that this rank needs."""

    folder: Path
    manifest: Manifest
    files: tuple[str, ...]
    """Those with fragments that it needs."""

    @property
    def spans(self) -> dict[str, Spans]:
        """The ranges in `files`."""
        return {name: self.manifest.spans[name] for name in self.files}


class Checkpoints:
    """The checkpoints of one run, as one rank sees them."""

    def __init__(
        self,
        stored: StoredCheckpoints,
        folder: Path,
        run: Run,
        ranks: Ranks,
        *,
        gather: Callable[[Any], list[Any]],
        warn: Callable[[str], None],
    ) -> None:
        """Args: `folder` on this rank's disk; `gather` gives the values of all ranks."""
        self._stored, self._run, self._ranks, self._gather, self._warn = stored, run, ranks, gather, warn
        self._folder = folder / run.digest[:8]
        self._history: tuple[Stretch, ...] = (self._stretch(0),)
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._upload: Future[None] | None = None
        shutil.rmtree(self._folder / "part", ignore_errors=True)

    @property
    def history(self) -> tuple[Stretch, ...]:
        """Who trained which steps; this process last."""
        return self._history

    def _stretch(self, step: int) -> Stretch:
        return Stretch(
            from_step=step,
            world_size=self._ranks.world_size,
            zero_stage=self._run.zero_stage,
            code_version=code_version(),
        )

    # Reading

    def newest(self, wanted: Spans) -> Found | None:
        """The newest checkpoint of which every rank can have all it needs; None when there is none.

        Where it is on the disks only, as many ranks as made it begin to bring it to the store.

        Args:
            wanted: ranges of the parameters that this rank keeps.

        Raises:
            CheckpointError: there are some, and all are damaged or of another run.
            StoreUnavailableError: the store does not answer a rank now; an older checkpoint would lose newer work.
            StoreError: the store cannot be listed.
        """
        stored: set[Commit] = self._gather(self._stored.commits() if self._ranks.is_first else None)[0]
        on_disks = self._gather(self._on_disk())
        problems = []
        for commit in sorted(set.intersection(*(own | stored for own in on_disks)), reverse=True):
            found, problem, is_temporary = None, "", False
            try:
                found = self._obtain(commit, wanted, is_stored=commit in stored)
            except (CheckpointError, StoreError, OSError) as error:
                problem, is_temporary = str(error), isinstance(error, StoreUnavailableError)
            outcomes: list[tuple[str, bool]] = self._gather((problem, is_temporary))
            told = [other for other, _ in outcomes if other]
            if temporary := [other for other, may_pass in outcomes if may_pass]:
                raise StoreUnavailableError(
                    f"the checkpoint of step {commit.step} cannot be fetched now: {temporary[0]}",
                    hint="start again when the store answers",
                )
            if found and not told:
                self._go_on(found.manifest)
                if commit not in stored and found.manifest.world_size == self._ranks.world_size:
                    self._begin_upload(found.folder, found.manifest)  # its run was killed before it had
                return found
            self._warn(f"the checkpoint of step {commit.step} is not used: {told[0]}")
            problems.append(told[0])
        if problems:
            raise CheckpointError(
                f"none of the {len(problems)} checkpoints of this run can be used; the newest: {problems[0]}",
                hint=f"bring back what is missing, or remove {self._stored.prefix} in the store and {self._folder} "
                "to start afresh",
            )
        return None

    def _go_on(self, manifest: Manifest) -> None:
        last = manifest.history[-1]
        is_as_before = self._stretch(last.from_step) == last
        self._history = manifest.history if is_as_before else (*manifest.history, self._stretch(manifest.step))

    def _obtain(self, commit: Commit, wanted: Spans, *, is_stored: bool) -> Found:
        """Verify what this rank needs of a checkpoint on its disk; what is not there or damaged is fetched."""
        from training.fragments import overlapping

        folder = self._folder / commit.folder
        is_on_disk = commit in self._on_disk()
        if not is_on_disk:
            shutil.rmtree(folder, ignore_errors=True)
        manifest = self._manifest(folder, commit, is_stored=is_stored)
        needed = overlapping(wanted, manifest.spans)
        if manifest.world_size == self._ranks.world_size:
            needed.add(rank_file(self._ranks.rank))  # has the random states
        for name in sorted(needed | ({METRICS} if self._ranks.is_first else set())):
            try:
                check_file(folder / name, manifest)
            except CheckpointError:
                if not is_stored:
                    raise
                self._stored.fetch(folder.name, name, folder / name)
                check_file(folder / name, manifest)
        if not is_on_disk:
            write_atomic(folder / COMMIT, commit.digest)
        return Found(folder, manifest, tuple(sorted(needed)))

    def _manifest(self, folder: Path, commit: Commit, *, is_stored: bool) -> Manifest:
        path = folder / MANIFEST
        if is_stored and not (path.is_file() and sha256_bytes(path.read_bytes()) == commit.digest):
            self._stored.fetch(folder.name, MANIFEST, path)
        try:
            manifest = parse_manifest(path.read_bytes(), commit.digest, path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if manifest.run != self._run.digest:
            raise CheckpointError(f"{path} is of another run", got=manifest.run, expected=self._run.digest)
        if manifest.parameters != dict(self._run.shapes):
            raise CheckpointError(f"{path} is of another model", **_difference(manifest.parameters, self._run.shapes))
        return manifest

    def _on_disk(self) -> set[Commit]:
        found = set()
        for path in self._folder.glob(f"step-*/{COMMIT}"):
            step = step_of(path.parent.name)
            if step is not None:
                found.add(Commit(step, path.read_bytes().decode(errors="replace")))
        return found

    # Writing

    def save(
        self,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        spans: Spans,
        metrics: Path,
        position: Mapping[str, Any],
    ) -> None:
        """Write the checkpoint after `step` steps to disk and begin to bring it to the store; every rank calls this.

        Args:
            tensors: this rank's fragments and random states, named as in fragments.py.
            spans: the ranges that they are.
            metrics: the record of the run, for rank 0.
            position: JSON values, the same on every rank.

        Raises:
            CheckpointError: a rank cannot write it (disk full); the one before is whole.
        """
        self._join_upload()
        folder, part = self._folder / f"step-{step:08}", self._folder / "part"
        written = self._together(step, lambda: (self._write_files(part, tensors, metrics), dict(spans)))
        manifest = Manifest(
            run=self._run.digest,
            step=step,
            position=dict(position),
            world_size=self._ranks.world_size,
            zero_stage=self._run.zero_stage,
            parameters=dict(self._run.shapes),
            files={name: digest for digests, _ in written for name, digest in digests.items()},
            spans={rank_file(rank): held for rank, (_, held) in enumerate(written)},
            history=self._history,
            config=self._run.config,
            code_version=code_version(),
        )
        self._together(step, lambda: self._commit(part, folder, manifest))
        on_disk = self._on_disk()
        kept = Retention(_ON_DISK).kept({commit.step for commit in on_disk}, step)
        for commit in on_disk:
            if commit.step not in kept:
                shutil.rmtree(self._folder / commit.folder)
        self._begin_upload(folder, manifest)

    def _write_files(self, part: Path, tensors: Mapping[str, torch.Tensor], metrics: Path) -> dict[str, str]:
        """Write this rank's files; gives their digests."""
        from safetensors.torch import save_file

        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        own, temporary = part / rank_file(self._ranks.rank), part / "writing"
        save_file(dict(tensors), temporary, metadata={"format": "pt"})  # from the tensors' memory, no second copy
        temporary.chmod(0o644)
        digests = {own.name: sha256_file(temporary)}
        put_in_place(temporary, own)
        if self._ranks.is_first:
            record = metrics.read_bytes()
            write_atomic(part / METRICS, record)
            digests[METRICS] = sha256_bytes(record)
        return digests

    def _commit(self, part: Path, folder: Path, manifest: Manifest) -> None:
        content = manifest.to_bytes()
        write_atomic(part / MANIFEST, content)
        write_atomic(part / COMMIT, sha256_bytes(content))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        sync_folder(self._folder)

    def _together(self, step: int, act: Callable[[], T]) -> list[T]:
        """What `act` gives on every rank; when it fails on one, all raise, so that none waits for another."""
        result, problem = None, None
        try:
            result = act()
        except (OSError, SafetensorError) as error:
            problem = f"rank {self._ranks.rank}: {error}", room_hint(_as_os_error(error), self._folder)
            shutil.rmtree(self._folder / "part", ignore_errors=True)
        outcomes: list[tuple[T, tuple[str, str | None] | None]] = self._gather((result, problem))
        problems = [other for _, other in outcomes if other]
        if problems:
            text, hint = problems[0]
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written: {text}",
                hint=hint or "start again: it resumes from the checkpoint before",
            )
        return [value for value, _ in outcomes]

    def _begin_upload(self, folder: Path, manifest: Manifest) -> None:
        self._upload = self._uploader.submit(self._stored.bring, folder, manifest)

    def _join_upload(self) -> None:
        if self._upload is not None:
            try:
                self._upload.result()
            except (StoreError, OSError) as error:
                self._warn(f"a checkpoint could not be stored, training goes on: {error}")
            self._upload = None

    def close(self, *, has_failed: bool = False) -> None:
        """Wait for the upload.

        Args:
            has_failed: another rank may be gone; its file is waited for a moment only.
        """
        if has_failed:
            self._stored.hurry()
        self._join_upload()
        self._uploader.shutdown()


def _as_os_error(error: Exception) -> Exception:
    """The OSError that safetensors, written in Rust, has as text only: "… (os error 28)"."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), str(error)) if number else error


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, str]:
    """The first parameter that is not the same, for an error."""
    name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
    return {"got": f"{name} {found.get(name)}", "expected": f"{name} {expected.get(name)}"}
