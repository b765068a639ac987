"""Fetching a model by its digest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.errors import StoreError
from sovereign.files import sha256_bytes
from sovereign.serving.fetch import fetch_model, model_digest
from sovereign.store import Store, open_store

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "extra/chat_template.jinja": b"Q"}
DIGEST = model_digest({name: sha256_bytes(data) for name, data in FILES.items()})
PREFIX = "models/demo/register/abc/"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"file://{tmp_path / 'store'}")
    for name, data in FILES.items():
        store.put_bytes(PREFIX + name, data)
    return store


def test_the_folder_is_named_by_its_digest(store: Store, tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = fetch_model(store, PREFIX, DIGEST, home)
    assert folder == home / DIGEST
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert list(home.iterdir()) == [folder]
    assert fetch_model(store, PREFIX, DIGEST, home) == folder  # the pod was started again


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_another_model_is_refused_and_nothing_is_left(store: Store, tmp_path: Path, change: str) -> None:
    if change == "changed":
        store.put_bytes(PREFIX + "model.safetensors", b"weightz")
    elif change == "added":
        store.put_bytes(PREFIX + "tokenizer.json", b"{}")
    else:
        store.delete(PREFIX + "config.json")
    with pytest.raises(StoreError, match="not the registered model"):
        fetch_model(store, PREFIX, DIGEST, tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


def test_nothing_to_fetch(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no model under models/other/"):
        fetch_model(store, "models/other/", DIGEST, tmp_path / "home")


def test_digest_depends_on_names_and_content_not_on_order() -> None:
    files = {"b": "2", "a": "1"}
    assert model_digest(files) == model_digest(dict(sorted(files.items())))
    assert len({model_digest(other) for other in (files, {"b": "1", "a": "2"}, {"b": "2"}, {"c": "2", "a": "1"})}) == 4


def test_command_line(store: Store, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "sovereign.serving", "fetch", "--store", store.url, "--prefix", PREFIX]
    command += ["--into", str(home), "--digest"]
    refused = subprocess.run([*command, "0" * 64], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert DIGEST in refused.stderr
    assert "Traceback" not in refused.stderr
    subprocess.run([*command, DIGEST], check=True)
    assert (home / DIGEST / "config.json").exists()
