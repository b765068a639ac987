"""Building llama.cpp: what goes wrong says so. That it works is tested by its use: tests/training/test_export.py."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sovereign import llamacpp
from sovereign.errors import ToolError
from sovereign.resources import data_path


def test_without_packages_the_build_says_that_it_needs_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    said: list[str] = []
    with pytest.raises(ToolError, match="needs one") as caught:
        llamacpp.ensure_llama(lambda text, _: said.append(text))
    assert "No matching distribution" in str(caught.value.got)
    assert said[-1] == "fetching what llama.cpp is built with"
    assert llamacpp.find_llama() is None  # what is left is no environment


def test_a_full_disk_is_seen_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 1000, 1000))
    with pytest.raises(ToolError, match="not enough disk space"):
        llamacpp.ensure_llama(lambda _text, _done: None)
    assert not list((tmp_path / "sovereign" / "llama.cpp").glob("*/*"))


def test_every_package_is_pinned_by_digest_and_names_no_host() -> None:
    for name in ("wheels.txt", "source.txt"):
        text = (data_path("tools") / "llama.cpp" / name).read_text()
        entries = [line for line in text.splitlines() if "==" in line]
        assert entries and "://" not in text and text.count("--hash=sha256:") >= len(entries)
