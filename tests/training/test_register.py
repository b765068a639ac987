"""Registration in a real MLflow database: one version for one digest, and the gate before `champion`."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sovereign.base import fetch_base, read_base
from sovereign.cli.base import name_base, settle_base
from sovereign.errors import StageError, StoreError, TrainingError
from sovereign.files import sha256_file
from sovereign.serving.fetch import fetch_model
from sovereign.site import init_site
from sovereign.stages import StageOutput, run_stage
from sovereign.store import Store, open_store
from tests.sovereign.bases import make_base
from tests.training.lake import make_lake, make_profile, store_output, write_receipt
from training.register import register
from training.registry import champion, open_client

# MLflow's own code and that of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore")


def evaluation(**accuracy: float) -> dict[str, Any]:
    return {
        "questions": {"by_language": {name: {"heldout": {"accuracy": share}} for name, share in accuracy.items()}},
        "languages": sorted(accuracy),
        "bits_per_byte": {"by_language": {}},
        "contamination": {"overall": {"share": None}},
        "memorisation": {"trained": {"rate": None}},
    }


@pytest.fixture(scope="module")
def first_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake up to `evaluate`, and an empty MLflow database."""
    root = tmp_path_factory.mktemp("first")
    store = make_lake(root)
    results = root / "evaluation.json"
    results.write_text(json.dumps(evaluation(en=1.0, fr=0.5)))
    card = root / "README.md"
    card.write_text("# tiny\n")
    prefix = "models/tiny/evaluate/"
    store_output(
        store, root, "evaluate", StageOutput({prefix + "evaluation.json": results, prefix + "README.md": card})
    )
    open_client(f"sqlite:///{root}/mlflow.db").search_registered_models()
    return root


@pytest.fixture
def lake(first_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the first lake, and MLFLOW_TRACKING_URI of its database."""
    root = tmp_path / "lake"
    shutil.copytree(first_lake, root)
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts when no server does
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    yield root


def run(lake: Path, **profile: Any) -> tuple[dict[str, Any], Store]:
    """Run the stage; its registration.json and the store."""
    store = open_store(f"file://{lake}")
    receipt = run_stage(register, make_profile(**profile), store, lake / "work", io.StringIO())
    registration: dict[str, Any] = json.loads(store.get_bytes("models/tiny/register/registration.json"))
    return registration | {"metrics": receipt.metrics}, store


def tracking_uri(lake: Path) -> str:
    return f"sqlite:///{lake}/mlflow.db"


def test_same_digest_is_registered_once(lake: Path) -> None:
    first, store = run(lake)
    store.delete("models/tiny/register/receipt.json")  # as a run that was killed leaves it
    second, _ = run(lake)
    assert (first["version"], second["version"]) == (1, 1)
    assert (first["metrics"]["is_new"], second["metrics"]["is_new"]) == (True, False)
    client = open_client(tracking_uri(lake))
    versions = client.search_model_versions("name = 'tiny'")
    assert [int(version.version) for version in versions] == [1]
    assert versions[0].tags["receipt.train"] == "t" * 64
    assert set(client.get_registered_model("tiny").aliases) == {"candidate", "champion"}


def test_artifacts_are_the_model_and_its_card(lake: Path, tmp_path: Path) -> None:
    registration, _ = run(lake)
    client = open_client(tracking_uri(lake))
    run_id = client.get_model_version("tiny", "1").run_id or ""
    folder = Path(client.download_artifacts(run_id, f"model-{registration['digest'][:12]}", str(tmp_path)))
    assert (folder / "README.md").read_text() == "# tiny\n"
    model = lake / "models/tiny/train/model"
    assert {path.name for path in folder.iterdir()} == {path.name for path in model.iterdir()} | {"README.md"}
    assert sha256_file(folder / "model.safetensors") == sha256_file(model / "model.safetensors")


def test_champion_is_what_serving_fetches(lake: Path, tmp_path: Path) -> None:
    registration, store = run(lake)
    found = champion(tracking_uri(lake), "tiny")
    assert (found.version, found.digest, found.files) == (1, registration["digest"], registration["files"])
    # The next training writes over its own output, not over the champion.
    (lake / "models/tiny/train/model/model.safetensors").write_bytes(b"another")
    snapshot = fetch_model(store, found.store_prefix, found.digest, tmp_path / "hf")
    assert sha256_file(snapshot / "model.safetensors") in found.files.values()


def test_what_llama_cpp_serves_is_stored_beside_the_model(lake: Path, tmp_path: Path) -> None:
    registration, store = run(lake)
    found = champion(tracking_uri(lake), "tiny")
    assert found.gguf_digest == registration["gguf_digest"]
    prefix = f"models/tiny/register/{found.digest}.served/"
    assert found.gguf_digest is not None
    folder = fetch_model(store, prefix, found.gguf_digest, tmp_path / "hf")
    assert {path.name for path in folder.iterdir()} >= {"model.gguf", "config.json", "tokenizer.json"}
    assert not list(folder.glob("*.safetensors"))
    # A byte of it changed: it is not served.
    path = lake / prefix / "model.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="not the registered model"):
        fetch_model(store, prefix, found.gguf_digest, tmp_path / "hf2")
    shutil.rmtree(lake / "work")
    assert run(lake)[0]["gguf_digest"] == found.gguf_digest  # the same bytes again


def test_below_the_gate_it_is_a_candidate_only(lake: Path) -> None:
    registration, _ = run(lake, min_accuracy=0.9)
    assert registration["aliases"] == ["candidate"]
    reason = "accuracy of fr is 50.0%, at least 90.0% is asked for"
    assert registration["metrics"]["why_not_champion"] == reason
    with pytest.raises(TrainingError, match="no version with the alias champion"):
        champion(tracking_uri(lake), "tiny")
    assert champion(tracking_uri(lake), "tiny", alias="candidate").version == 1


def test_a_higher_gate_takes_the_alias_away(lake: Path) -> None:
    assert run(lake, min_accuracy=0.5)[0]["aliases"] == ["candidate", "champion"]
    assert run(lake, min_accuracy=0.6)[0]["aliases"] == ["candidate"]
    with pytest.raises(TrainingError, match="champion"):
        champion(tracking_uri(lake), "tiny")


def test_a_registered_model_is_a_base(lake: Path, tmp_path: Path) -> None:
    registration, store = run(lake)
    source = tmp_path / "fork.yaml"
    source.write_text(make_profile().model_dump_json(exclude_unset=True))
    site = init_site(tmp_path / "site", source)
    for alias, error in (("candidat", TrainingError), ("champion", None)):
        name_base(site, f"models:/tiny@{alias}")
        with pytest.raises(error, match="no version") if error else nullcontext():
            settle_base(site, store, lambda: nullcontext(tracking_uri(lake)))
    base = site.profile.base
    assert base is not None and base.known is not None and base.known.digest == registration["digest"]
    assert base.known.architecture == "Qwen3ForCausalLM" and base.known.tied
    fetched = fetch_base(store, base.known.digest, tmp_path / "base")
    assert sha256_file(fetched / "model.safetensors") in registration["files"].values()


def test_a_fork_names_its_parent(lake: Path, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    known = read_base(folder)
    adapter = lake / "models/tiny/train/adapter/adapter_model.safetensors"
    adapter.parent.mkdir()
    adapter.write_bytes(b"adapter")
    store = open_store(f"file://{lake}")
    write_receipt(store, lake, "train", "models/tiny/train/", {})
    registration, _ = run(lake, base={"model": str(folder), "method": "lora", "known": known.model_dump()})
    client = open_client(tracking_uri(lake))
    version = client.get_model_version("tiny", "1")
    assert version.tags["base.digest"] == registration["base.digest"] == known.digest
    assert (version.tags["base.model"], version.tags["base.method"]) == (str(folder), "lora")
    stored = client.list_artifacts(version.run_id or "", f"adapter-{registration['digest'][:12]}")
    assert [item.path.rpartition("/")[2] for item in stored] == ["adapter_model.safetensors"]


def test_no_registry_is_named(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(StageError, match="MLFLOW_TRACKING_URI"):
        run(lake)


def test_no_model_is_registered(lake: Path) -> None:
    with pytest.raises(TrainingError, match="no version with the alias champion"):
        champion(tracking_uri(lake), "nothing")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server as the lake runs it, with artifacts in a folder instead of S3."""
    root = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = root / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        while not _is_healthy(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)
    except OSError:
        time.sleep(0.3)
        return False


def test_over_http(lake: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with pytest.raises(TrainingError, match="no version with the alias champion"):
        champion(server, "tiny")  # no such model
    registration, _ = run(lake, min_accuracy=0.9)
    with pytest.raises(TrainingError, match="no version with the alias champion"):
        champion(server, "tiny")  # no such alias
    assert run(lake)[0]["version"] == 1
    found = champion(server, "tiny")
    assert (found.version, found.digest, found.files) == (1, registration["digest"], registration["files"])
    client = open_client(server)
    run_id = client.get_model_version("tiny", "1").run_id or ""
    stored = [item.path for item in client.list_artifacts(run_id, f"model-{found.digest[:12]}")]
    assert f"model-{found.digest[:12]}/model.safetensors" in stored


def test_no_registry_answers() -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        champion("http://127.0.0.1:1", "tiny")
