"""Checkpoints: only whole and right ones are used, the newest first, from disk or store, by any number of ranks."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign.errors import EX_TEMPFAIL, CheckpointError, SovereignError, StoreUnavailableError
from sovereign.plan import plan
from sovereign.profile import Profile
from sovereign.store import FolderStore, Store, open_store
from tests import disks
from tests.memory import forget_peak, resident_bytes
from training import stored
from training.checkpoint import Checkpoints, Found, Run
from training.environment import Ranks
from training.forked import TINY
from training.fragments import FragmentReader
from training.manifest import COMMIT, MANIFEST, METRICS, check_file, parse_manifest, rank_file
from training.resume import refuse_another_batch, resolved_config
from training.stored import Retention, StoredCheckpoints, forget_other_runs

RUN = "a" * 64
PREFIX = "models/tiny/train/checkpoints/"
SIZE = 12
"""Elements of the one parameter."""


def whole_step(folder: Path) -> int:
    """The step of a checkpoint of which every file is what was written; another one raises CheckpointError."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), (folder / COMMIT).read_text(), folder / MANIFEST)
    for name in manifest.files:
        check_file(folder / name, manifest)
    return manifest.step


class Meeting:
    """Lets threads exchange values as ranks do."""

    def __init__(self, num_ranks: int) -> None:
        self._values: list[Any] = [None] * num_ranks
        self._barrier = threading.Barrier(num_ranks, timeout=30)

    def gather(self, rank: int, value: Any) -> list[Any]:
        """The values of all."""
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


class Place:
    """A store, and a disk for each rank; every call starts the processes anew."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = open_store(f"file://{root / 'store'}")
        self.warnings: list[str] = []
        self.metrics = root / "metrics.jsonl"
        self.metrics.write_text('{"step": 1}\n')
        self.retention = Retention(2)
        self.shape: tuple[int, ...] = (SIZE,)

    def open(self, rank: int, world_size: int, meeting: Meeting, run: str = RUN) -> Checkpoints:
        """The checkpoints as one rank sees them."""
        ranks = Ranks(rank, world_size, 0)
        return Checkpoints(
            StoredCheckpoints(self.store, PREFIX, run, ranks, self.retention),
            self.root / f"disk-{rank}",
            Run(run, 1, {"x": self.shape}, {"size": 1}),
            ranks,
            gather=lambda value: meeting.gather(rank, value),
            warn=self.warnings.append,
        )

    def together(self, world_size: int, act: Any, run: str = RUN) -> list[Any]:
        """What `act(checkpoints, rank)` gives on each rank, an exception as itself."""
        meeting = Meeting(world_size)

        def one(rank: int) -> Any:
            checkpoints = self.open(rank, world_size, meeting, run)
            try:
                return act(checkpoints, rank)
            except (CheckpointError, StoreUnavailableError) as error:
                return error
            finally:
                checkpoints.close()

        with ThreadPoolExecutor(world_size) as threads:
            return list(threads.map(one, range(world_size)))

    def save(self, *steps: int, world_size: int = 1, run: str = RUN, value: float = 0) -> list[CheckpointError | None]:
        """Make checkpoints; element i of the parameter is step + value + i/100. What each rank raised."""

        def act(checkpoints: Checkpoints, rank: int) -> None:
            start, stop = span(rank, world_size)
            for step in steps:
                values = content(step + value)[start:stop]
                tensors = {"master/x": values, "exp_avg/x": -values, "scalar/step": torch.tensor(float(step))}
                checkpoints.save(step, tensors, {"x": (start, stop)}, self.metrics, {"tokens": step})

        return self.together(world_size, act, run)

    def load(self, world_size: int = 1, run: str = RUN) -> list[tuple[int, float] | SovereignError | None]:
        """Step and value of what each rank goes on from, after a look at every element; None starts afresh."""

        def act(checkpoints: Checkpoints, rank: int) -> tuple[int, float] | None:
            found: Found | None = checkpoints.newest({"x": span(rank, world_size)})
            if found is None:
                return None
            start, stop = span(rank, world_size)
            step = found.manifest.step
            with FragmentReader(found.folder, found.spans) as reader:
                assert reader.scalars() == {"step": torch.tensor(float(step))}
                assert reader.kinds == ["exp_avg", "master"]
                master = reader.read("master", "x", start, stop)
                assert torch.equal(reader.read("exp_avg", "x", start, stop), -master)
            value = round(float(master[0]) - start / 100 - step, 3)
            assert torch.equal(master, content(step + value)[start:stop])
            return step, value

        return self.together(world_size, act, run)

    def newest_step(self) -> int | None:
        """The step that a process alone goes on from."""
        (found,) = self.load()
        if isinstance(found, SovereignError):
            raise found
        return found[0] if found else None

    def stored(self, step: int, run: str = RUN) -> Path:
        """Folder of a checkpoint in the store."""
        return self.root / "store" / PREFIX / run[:8] / f"step-{step:08}"

    def on_disk(self, step: int, rank: int = 0) -> Path:
        """Folder of a checkpoint on a rank's disk."""
        return self.root / f"disk-{rank}" / RUN[:8] / f"step-{step:08}"

    def lose_disk(self, rank: int = 0) -> None:
        """As when the pod starts elsewhere."""
        shutil.rmtree(self.root / f"disk-{rank}")


def content(value: float) -> torch.Tensor:
    """The parameter's elements."""
    return value + torch.arange(SIZE) / 100


def span(rank: int, world_size: int) -> tuple[int, int]:
    """A rank's range of the parameter."""
    size = -(-SIZE // world_size)
    return min(rank * size, SIZE), min((rank + 1) * size, SIZE)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("disk_lost", [False, True])
def test_the_newest_is_used(place: Place, disk_lost: bool) -> None:
    place.save(4, 8, 12)
    if disk_lost:
        place.lose_disk()
    assert place.newest_step() == 12
    assert place.warnings == []


class AwayStore(FolderStore):
    """A store that still answers small requests, and breaks off for one large file."""

    unreachable = ""
    """How the keys of such files end."""

    def get_file(self, key: str, path: Path) -> None:
        if key.endswith(self.unreachable):
            raise StoreUnavailableError(f"cannot read {key}: Connection was closed")
        super().get_file(key, path)


@pytest.mark.parametrize("unreachable", [".safetensors", f"step-00000008/{rank_file(1)}"])
def test_a_store_that_does_not_answer_is_waited_for(place: Place, unreachable: str) -> None:
    """Neither does the Job end for good, nor is an older checkpoint used, after which newer work would be deleted."""
    place.save(4, 8, world_size=2)
    for rank in range(2):
        place.lose_disk(rank)
    away = AwayStore(place.root / "store")
    away.unreachable, place.store = unreachable, away
    for error in place.load(2):
        assert isinstance(error, StoreUnavailableError) and error.exit_code == EX_TEMPFAIL
        assert "the checkpoint of step 8 cannot be fetched now" in str(error) and "remove" not in str(error)
    place.store = open_store(f"file://{place.root / 'store'}")
    assert place.load(2) == [(8, 0)] * 2
    assert place.warnings == []


def test_a_save_takes_no_memory_beside_the_state(place: Place) -> None:
    """What is written is byte for byte what safetensors makes of the tensors in memory."""
    from safetensors.torch import save

    tensors = {"master/x": torch.rand(16_000_000), "scalar/step": torch.tensor(1.0)}
    checkpoints = place.open(0, 1, Meeting(1))
    forget_peak()
    before = resident_bytes("VmRSS")
    checkpoints.save(4, tensors, {"x": (0, 16_000_000)}, place.metrics, {})
    checkpoints.close()
    assert resident_bytes("VmHWM") - before < 16e6, "a quarter of the state"
    assert (place.on_disk(4) / rank_file(0)).read_bytes() == save(tensors, metadata={"format": "pt"})
    assert whole_step(place.stored(4)) == 4


@pytest.mark.parametrize("world_size", [1, 2])
def test_one_that_a_killed_run_left_on_the_disks_is_stored_after_all(place: Place, world_size: int) -> None:
    place.save(4, 8, world_size=world_size)
    shutil.rmtree(place.stored(8))
    assert place.load(world_size) == [(8, 0)] * world_size
    for rank in range(world_size):
        place.lose_disk(rank)
    assert place.load(world_size) == [(8, 0)] * world_size
    assert whole_step(place.stored(8)) == 8
    assert place.warnings == []


def test_the_newest_two_and_the_chosen_ones_are_kept(place: Place) -> None:
    place.save(4, 8, 12)
    kept = ["step-00000008", "step-00000012"]
    assert sorted({path.parent.name for path in place.stored(4).parent.glob("*/*")}) == kept
    assert sorted(path.name for path in place.on_disk(4).parent.iterdir()) == kept
    place.retention = Retention(3, every_steps=8)
    place.save(16, 20, 24, 28)
    steps = sorted({int(path.parent.name[-2:]) for path in place.stored(4).parent.glob("*/*")})
    assert steps == [8, 16, 20, 24, 28]
    assert whole_step(place.stored(8)) == 8


@pytest.mark.parametrize("name", [rank_file(0), METRICS, MANIFEST, COMMIT])
@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, Path.unlink])
def test_a_damaged_one_is_found_and_the_one_before_is_used(place: Place, damage: Any, name: str) -> None:
    place.save(4, 8)
    place.lose_disk()
    damage(place.stored(8) / name)
    assert place.newest_step() == 4
    if (name, damage) != (COMMIT, Path.unlink):  # without COMMIT it was never whole
        assert "the checkpoint of step 8 is not used" in place.warnings[0]
        assert f"step-00000008/{MANIFEST if name == COMMIT else name}" in place.warnings[0]


def test_damaged_ones_do_not_push_out_whole_ones(place: Place) -> None:
    place.retention = Retention(3)
    place.save(4, 8, 12)
    for step in (8, 12):
        flip_a_bit(place.stored(step) / rank_file(0))
        cut_off(place.on_disk(step) / rank_file(0))
    assert place.newest_step() == 4
    place.save(5, 6)
    for folder in (place.stored(5), place.on_disk(5)):
        assert {path.name for path in folder.parent.glob("*") if any(path.iterdir())} >= {folder.name, "step-00000006"}
        assert whole_step(folder) == 5
    assert place.newest_step() == 6


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, Path.unlink])
def test_a_damaged_one_alone_is_refused(place: Place, damage: Any) -> None:
    """Never does a run start afresh, over what is left of days, because of one bit."""
    place.save(4)
    place.lose_disk()
    damage(place.stored(4) / rank_file(0))
    with pytest.raises(CheckpointError, match=r"step-00000004/rank-00000[\s\S]*to start afresh"):
        place.newest_step()


def test_a_damaged_one_on_disk_is_fetched_again(place: Place) -> None:
    place.save(4)
    cut_off(place.on_disk(4) / rank_file(0))
    flip_a_bit(place.on_disk(4) / MANIFEST)
    assert place.newest_step() == 4
    assert place.warnings == []


def test_another_run_is_not_gone_on_with_and_forgotten_at_the_end(place: Place) -> None:
    place.save(4)
    other = "b" * 64
    assert place.load(run=other) == [None]
    forget_other_runs(place.store, PREFIX, RUN)
    assert list(place.stored(4).glob("*"))
    forget_other_runs(place.store, PREFIX, other)
    assert not list(place.stored(4).glob("*"))


def test_one_of_another_run_in_its_place_is_refused(place: Place) -> None:
    """Even where the first digits of the digests are the same."""
    place.save(4)
    (error,) = place.load(run=RUN[:8] + "c" * 56)
    assert isinstance(error, CheckpointError) and "manifest.json is of another run" in str(error)


def test_one_of_another_model_is_refused(place: Place) -> None:
    place.save(4)
    place.shape = (3, 4)
    with pytest.raises(CheckpointError, match=r"of another model\n  got: x \(12,\)\n  expected: x \(3, 4\)"):
        place.newest_step()


def test_nothing_there_starts_afresh(place: Place) -> None:
    assert place.newest_step() is None


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (4, 2), (3, 4)])
def test_any_number_of_ranks_goes_on(place: Place, before: int, after: int) -> None:
    place.save(4, 8, world_size=before)
    for rank in range(before):
        place.lose_disk(rank)
    assert place.load(after) == [(8, 0)] * after
    assert place.warnings == []


def test_a_rank_fetches_what_it_needs_only(place: Place) -> None:
    place.save(4, world_size=4)
    for rank in range(4):
        place.lose_disk(rank)
    place.load(4)
    assert sorted(path.name for path in place.on_disk(4, 3).iterdir()) == [COMMIT, MANIFEST, rank_file(3)]
    place.load(2)
    assert not (place.on_disk(4, 0) / rank_file(2)).exists()


def test_ranks_agree_on_the_content_too(place: Place) -> None:
    """Two attempts at one step: the disk of one rank has the later, the store the earlier; none is mixed."""
    place.save(4, world_size=2)
    earlier = shutil.copytree(place.stored(4), place.root / "earlier")
    place.save(4, world_size=2, value=0.5)
    shutil.rmtree(place.stored(4))
    shutil.copytree(earlier, place.stored(4))
    place.lose_disk(1)
    assert place.load(2) == [(4, 0)] * 2


def test_one_that_some_disks_lost_does_not_count(place: Place) -> None:
    place.save(4, world_size=2)
    place.save(8, world_size=2)
    shutil.rmtree(place.stored(8))
    place.lose_disk(1)
    assert place.load(2) == [(4, 0)] * 2


def test_who_trained_which_steps_is_told(place: Place) -> None:
    place.save(4)

    def go_on(checkpoints: Checkpoints, rank: int) -> list[tuple[int, int]]:
        checkpoints.newest({"x": span(rank, 2)})
        return [(stretch.from_step, stretch.world_size) for stretch in checkpoints.history]

    assert place.together(2, go_on) == [[(0, 1), (4, 2)]] * 2
    assert place.together(1, go_on) == [[(0, 1)]]


def test_a_store_that_fails_does_not_stop_training(place: Place) -> None:
    place.save(4)
    place.lose_disk()
    shutil.rmtree(place.root / "store" / PREFIX)
    (place.root / "store" / PREFIX).write_text("not a folder")
    assert place.save(8) == [None]
    assert "could not be stored, training continues" in place.warnings[0]


def test_a_rank_that_fails_does_not_wait_for_one_that_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 is gone before its file is in the store: rank 0 must end, so that the job starts again."""
    monkeypatch.setattr(stored, "_GRACE_S", 0.5)
    meeting = Meeting(2)

    def one(rank: int) -> None:
        checkpoints = place.open(rank, 2, meeting)
        if rank == 1:
            monkeypatch.setattr(checkpoints._stored, "bring", lambda *_: None)
        start, stop = span(rank, 2)
        checkpoints.save(1, {"master/x": content(1)[start:stop]}, {"x": (start, stop)}, place.metrics, {})
        checkpoints.close(has_failed=True)

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, range(2)))
    assert time.monotonic() - begin < stored._UPLOAD_WAIT_S / 10
    assert "did not appear" in place.warnings[0]


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A file system of 256 KB where the first rank's disk is."""
    with disks.small_disk(place.root / "disk-0", "256k") as folder:
        yield folder


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_full_disk_leaves_the_one_before(place: Place, small_disk: Path, world_size: int) -> None:
    """Every rank learns of it; when there is room again, it goes on."""
    assert place.save(4, world_size=world_size) == [None] * world_size
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))
    errors = place.save(8, world_size=world_size)
    assert len(errors) == world_size
    for error in errors:
        assert "step 8 cannot be written: rank 0: " in str(error) and "No space left" in str(error)
    assert sorted(path.name for path in small_disk.glob(f"{RUN[:8]}/*")) == ["step-00000004"]
    shutil.rmtree(place.root / "store")
    assert place.load(world_size) == [(4, 0)] * world_size
    ballast.unlink()
    assert place.save(8, world_size=world_size) == [None] * world_size
    assert place.load(world_size) == [(8, 0)] * world_size


def config(inputs: str = "shard", **training: Any) -> dict[str, Any]:
    """What a checkpoint of the tiny profile with these keys holds."""
    profile = Profile.model_validate(TINY | {"training": TINY["training"] | training})
    return resolved_config(profile, plan(profile), {inputs: "0" * 64})


def test_a_number_of_ranks_that_changes_the_batch_is_refused() -> None:
    words = r"got: 192 tokens with 3 ranks\n  expected: 256 tokens[\s\S]*remove here"
    with pytest.raises(CheckpointError, match=words):
        refuse_another_batch(config(pods=3), [("here", config())])
    refuse_another_batch(config(pods=2), [("here", config())])
    for other in (config(pods=3), config(seed=1), config(batch_tokens=512), config("other shard")):
        refuse_another_batch(config(pods=3), [("here", other)])
