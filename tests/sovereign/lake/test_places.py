"""Places of records: those of many ids lie on the disk."""

from __future__ import annotations

import errno
import tracemalloc
from pathlib import Path

import pytest

from sovereign.lake import places
from sovereign.lake.places import Places
from tests.disks import small_disk


def test_places_of_many_records_are_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_CACHE_KIB", 256)
    with Places(tmp_path / "scratch") as taken:
        taken.find("a#1", "an id")
        tracemalloc.start()
        for number in range(2, 50_000):
            taken.find(f"a#{number}", number + 10**6)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken.find("a#50000", "an id") == "a#an id#50000"
        assert (tmp_path / "scratch" / "places.sqlite").stat().st_size > 500_000
    assert peak_bytes < 2**20
    assert not list((tmp_path / "scratch").iterdir())


def test_scratch_file_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_CACHE_KIB", 256)
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(OSError, match="No space left on device") as caught, Places(disk) as taken:
            for number in range(200_000):
                taken.find(f"a#{number}", number)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == f"{disk}/places.sqlite"
        assert not list(disk.iterdir())
