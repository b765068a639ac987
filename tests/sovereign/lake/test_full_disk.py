"""Full disks, real ones: the error says where, the result before stays, and with room again the same bytes are made."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.files import sha256_file
from sovereign.receipts import Receipt
from tests.disks import fill, small_disk

OWN = {"owner": "O", "licence": "CC0-1.0", "language": "en"}


class Place:
    """A profile, a store and a work folder, where stages run as processes of their own."""

    def __init__(self, folder: Path, disk: Path) -> None:
        folder.mkdir()
        self.profile, self.texts = folder / "profile.yaml", folder / "texts"
        self.store, self.work = disk / "store", disk / "work"

    def gather(self, num_sources: int) -> None:
        """Have so many sources, of 0.9 MB each that cannot be compressed much, with near duplicates."""
        sources = []
        for number in range(num_sources):
            draw = random.Random(number)
            texts = [draw.randbytes(1500).hex() for _ in range(290)]
            lines = [json.dumps({"text": text}) for text in [*texts, *(text[:-9] + "9 changed" for text in texts[:10])]]
            path = self.texts / f"{number}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines))
            sources.append({"name": f"s{number}", "path": str(path), **OWN})
        corpus = {"sources": sources, "cleaning": {"language": None, "quality": None}, "curation": {"task_mb": 1}}
        document = {"apiVersion": "sovereign/v1", "name": "test", "corpus": corpus}
        self.profile.write_text(json.dumps(document | {"model": {"parameters": 4e5}, "training": {"tokens": 1e5}}))

    def run(self, stage: str) -> tuple[int, str]:
        """Exit code and standard error of the stage."""
        command = [sys.executable, "-m", "sovereign.stages", "run", stage, "--profile", str(self.profile)]
        command += ["--store", f"file://{self.store}", "--workdir", str(self.work)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

    def result(self, prefix: str) -> dict[str, str]:
        """Digests of what the receipt below `prefix` names, which are those that it says."""
        receipt = Receipt.from_bytes((self.store / prefix / "receipt.json").read_bytes())
        found = {key: sha256_file(self.store / key) for key in receipt.outputs}
        assert found == receipt.outputs
        return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What three sources give."""
    folder = tmp_path_factory.mktemp("undisturbed")
    place = Place(folder / "site", folder)
    place.gather(3)
    for stage in ("corpus", "curate"):
        assert place.run(stage) == (0, "")
    return place


@pytest.mark.parametrize(("stage", "prefix"), [("corpus", "raw/test"), ("curate", "curated/test")])
def test_the_result_before_stays_until_there_is_room(
    stage: str, prefix: str, undisturbed: Place, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk:
        place = Place(tmp_path / "site", disk)
        place.gather(1)
        for earlier in ("corpus", "curate"):
            assert place.run(earlier) == (0, "")
        before = place.result(prefix)
        place.gather(3)
        if stage == "curate":
            assert place.run("corpus") == (0, "")
        failed = set()
        for left_kib in (0, 500, 1200):
            ballast = fill(disk, left_kib * 2**10)
            code, error = place.run(stage)
            ballast.unlink()
            assert code == 1, left_kib
            assert error.startswith("error: ") and "No space left on device" in error
            assert f"hint: make room in {disk}/" in error and error.endswith(" and run the same command again\n")
            assert place.result(prefix) == before
            failed.add(error)
        assert len(failed) > 1  # in different places
        assert place.run(stage) == (0, "")
        assert place.result(prefix) == undisturbed.result(prefix)
        assert not list(disk.rglob("*.part")) and not list(disk.rglob("*.sovereign-part-*"))


_LINK = """
import sys
from pathlib import Path
from sovereign.lake.neardedup import ROW_VALUES, NearDuplicates
from sovereign.profile_cleaning import NearDuplicateRules
from tests.disks import fill
near = NearDuplicates(Path(sys.argv[1]), NearDuplicateRules())
near.extend(bytes(4 * ROW_VALUES * 4000), bytes(32 * 4000))
fill(Path(sys.argv[1]), 16_000)
try:
    near.link(0, Path(sys.argv[1]) / "links")
except OSError as error:
    sys.exit(f"errno {error.errno}")
"""


def test_a_file_in_memory_has_its_room_before_it_is_written(tmp_path: Path) -> None:
    """Else the kernel kills the process (SIGBUS)."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        done = subprocess.run([sys.executable, "-c", _LINK, disk], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"errno {errno.ENOSPC}\n")
