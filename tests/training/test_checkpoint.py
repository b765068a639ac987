"""Checkpoints: only whole and right ones are used, the newest first, from disk or from the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sovereign.errors import CheckpointError
from sovereign.store import open_store
from training.checkpoint import COMMIT, MANIFEST, WEIGHTS, Checkpoints, rank_file, verify
from training.environment import Ranks

RUN = "a" * 64
PREFIX = "models/tiny/train/checkpoints/"


class Place:
    """A store and a disk; `open` starts a process anew."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = open_store(f"file://{root / 'store'}")
        self.warnings: list[str] = []
        self.metrics = root / "metrics.jsonl"
        self.metrics.write_text('{"step": 1}\n')

    def open(self, run: str = RUN, disk: str = "disk") -> Checkpoints:
        """The checkpoints as a process alone sees them."""

        def gather(value: Any) -> list[Any]:
            return [value]

        return Checkpoints(
            self.store, PREFIX, self.root / disk, run, Ranks(0, 1, 0), gather=gather, warn=self.warnings.append
        )

    def save(self, *steps: int, run: str = RUN) -> None:
        """Make checkpoints with the step as their content."""
        checkpoints = self.open(run)
        for step in steps:
            values = {"x": torch.full((3,), float(step))}
            checkpoints.save(step, {WEIGHTS: values, rank_file(0): values}, self.metrics, {"size": 1})
        checkpoints.close()

    def stored(self, step: int, run: str = RUN) -> Path:
        """Folder of a checkpoint in the store."""
        return self.root / "store" / PREFIX / run[:8] / f"step-{step:08}"

    def lose_disk(self) -> None:
        """As when the pod starts elsewhere."""
        shutil.rmtree(self.root / "disk")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def newest_step(place: Place) -> int | None:
    """The step whose content is loaded."""
    found = place.open().newest()
    if found is None:
        return None
    step = int(load_file(found[0] / WEIGHTS)["x"][0])
    assert step == found[1].step
    return step


@pytest.mark.parametrize("disk_lost", [False, True])
def test_the_newest_is_used(place: Place, disk_lost: bool) -> None:
    place.save(4, 8, 12)
    if disk_lost:
        place.lose_disk()
    assert newest_step(place) == 12
    assert place.warnings == []


def test_two_are_kept(place: Place) -> None:
    place.save(4, 8, 12)
    names = {"step-00000008", "step-00000012"}
    assert {path.parent.name for path in place.stored(4).parent.glob("*/*")} == names
    assert {path.name for path in (place.root / "disk" / RUN[:8]).iterdir()} == names


@pytest.mark.parametrize("name", [WEIGHTS, rank_file(0), MANIFEST, COMMIT, "metrics.jsonl"])
def test_a_flipped_bit_is_found_and_the_one_before_is_used(place: Place, name: str) -> None:
    place.save(4, 8)
    place.lose_disk()
    path = place.stored(8) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        verify(place.stored(8), {WEIGHTS, rank_file(0), "metrics.jsonl"})
    assert newest_step(place) == 4
    assert "the checkpoint of step 8 is not used" in place.warnings[0]


@pytest.mark.parametrize("name", [WEIGHTS, rank_file(0), MANIFEST])
def test_a_missing_file_is_found(place: Place, name: str) -> None:
    place.save(4, 8)
    place.lose_disk()
    (place.stored(8) / name).unlink()
    assert newest_step(place) == 4
    assert place.warnings


def test_one_without_commit_does_not_count(place: Place) -> None:
    place.save(4, 8)
    place.lose_disk()
    (place.stored(8) / COMMIT).unlink()
    assert newest_step(place) == 4
    assert place.warnings == []


def test_a_damaged_one_on_disk_is_fetched_again(place: Place) -> None:
    place.save(4)
    (place.root / "disk" / RUN[:8] / "step-00000004" / WEIGHTS).write_bytes(b"cut off")
    assert newest_step(place) == 4
    assert place.warnings == []


def test_another_run_is_not_gone_on_with_and_forgotten_at_the_end(place: Place) -> None:
    place.save(4)
    other = place.open("b" * 64)
    assert other.newest() is None
    other.close(forget_other_runs=True)
    assert not list(place.stored(4).glob("*"))


def test_a_manifest_of_another_run_is_refused(place: Place) -> None:
    """Even where the first digits of the digests are the same."""
    place.save(4)
    assert place.open(RUN[:8] + "c" * 56).newest() is None
    assert "of another run" in place.warnings[0]


def test_nothing_there_starts_afresh(place: Place) -> None:
    assert place.open().newest() is None


def test_one_that_cannot_be_written_leaves_the_one_before(place: Place) -> None:
    place.save(4)
    checkpoints = place.open()
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.save(8, {rank_file(0): {"x": torch.ones(1)}}, place.root / "no such file", {})
    checkpoints.close()
    assert newest_step(place) == 4


def test_a_store_that_fails_does_not_stop_training(place: Place) -> None:
    checkpoints = place.open()
    (place.root / "store").write_text("not a folder")
    checkpoints.save(4, {WEIGHTS: {"x": torch.ones(1)}, rank_file(0): {"x": torch.ones(1)}}, place.metrics, {})
    checkpoints.close()
    assert "could not be stored, training goes on" in place.warnings[0]
