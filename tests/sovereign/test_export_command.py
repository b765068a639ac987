"""`sovereign export`: which model is meant, and what is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sovereign.cli.export import fetch_registered, run_export
from sovereign.cli.sites import find_profile
from sovereign.cli.where import read_exports
from sovereign.errors import StageError
from sovereign.files import sha256_bytes
from sovereign.serving.fetch import model_digest
from sovereign.site import init_site
from sovereign.store import Store, open_store
from tests.training.exported import make_folder

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


def test_an_export_of_a_site_s_model_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = init_site(tmp_path / "site", find_profile(Path("ci")))
    make_folder(tmp_path / "model", tied=True)
    files = {path.name: path for path in (tmp_path / "model").iterdir()}
    digest = model_digest({name: sha256_bytes(path.read_bytes()) for name, path in files.items()})
    store, prefix = open_store(f"file://{site.data_dir}"), f"models/ci/register/{digest}/"
    for name, path in files.items():
        store.put_file(prefix + name, path)
    registration = {"version": 1, "digest": digest, "store_prefix": prefix}
    store.put_bytes("models/ci/register/registration.json", json.dumps(registration).encode())
    assert read_exports(site) == []
    out = tmp_path / "ci.gguf"
    run_export(site.root, "gguf-f16", out, site_dir=None, local=True, as_json=True)
    written = json.loads(capsys.readouterr().out)["sha256"]
    run_export(tmp_path / "model", "gguf-f16", out, site_dir=None, local=True, as_json=True)  # no site's model
    (noted,) = read_exports(site)
    assert noted.pop("at")
    assert noted == {"path": str(out), "format": "gguf-f16", "sha256": written, "model_digest": digest}
