"""`sovereign export`: which model is meant, and what is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sovereign.cli.export import fetch_registered
from sovereign.errors import StageError
from sovereign.files import sha256_bytes
from sovereign.serving.fetch import model_digest
from sovereign.store import Store, open_store

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/more.txt": b"x"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one registered model."""
    store = open_store(f"file://{tmp_path}/store")
    digest = model_digest({name: sha256_bytes(content) for name, content in FILES.items()})
    prefix = f"models/tiny/register/{digest}/"
    for name, content in FILES.items():
        store.put_bytes(prefix + name, content)
    registration = {"version": 3, "digest": digest, "store_prefix": prefix}
    store.put_bytes("models/tiny/register/registration.json", json.dumps(registration).encode())
    return store


def test_the_registered_model_is_fetched_whole(store: Store, tmp_path: Path) -> None:
    assert fetch_registered(store, "tiny", tmp_path / "model") == 3
    for name, content in FILES.items():
        assert (tmp_path / "model" / name).read_bytes() == content


def test_other_files_than_the_registered_ones_are_refused(store: Store, tmp_path: Path) -> None:
    registration = json.loads(store.get_bytes("models/tiny/register/registration.json"))
    store.put_bytes(registration["store_prefix"] + "model.safetensors", b"another")
    with pytest.raises(StageError, match="are not the registered model"):
        fetch_registered(store, "tiny", tmp_path / "model")


def test_without_a_registered_model_the_next_step_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not registered yet") as caught:
        fetch_registered(store, "other", tmp_path / "model")
    assert caught.value.hint == "sovereign stage register PROFILE"
