"""Stage `register` through the stage runner: whatever stops it, aliases name files that are there (row sec1)."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.cli.base import name_base, settle_base
from sovereign.cli.export import fetch_registered
from sovereign.errors import TrainingError
from sovereign.files import sha256_file
from sovereign.plan import plan
from sovereign.receipts import Receipt
from sovereign.serving.fetch import fetch_model
from sovereign.site import init_site
from sovereign.stages import StageOutput, is_current, run_stage
from sovereign.store import FolderStore
from tests.training.lake import make_lake, make_profile, store_output, write_receipt
from training.prune import delete_all, find_unnamed
from training.register import register
from training.registry import Champion, champion, open_client

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own code and that of its libraries

# Without a GGUF file, which takes seconds to make; its folder is stored as the model's is.
ACCEPTED = make_profile(engine="transformers")
REFUSED = make_profile(engine="transformers", min_accuracy=0.9)


class EndingStore(FolderStore):
    """Ends, as a killed process would, before or after change number `left` of the store."""

    left = -1
    is_after = False

    def _change(self, act: Callable[[], None]) -> None:
        if self.left == 0 and not self.is_after:
            raise KeyboardInterrupt
        act()
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1

    @contextmanager
    def prepare(self, files: Mapping[str, Path | bytes]) -> Iterator[Callable[[], None]]:
        def store_all() -> None:
            for key, content in files.items():
                with FolderStore(self.root).prepare({key: content}) as store_one:
                    self._change(store_one)

        yield store_all

    def delete(self, key: str) -> None:
        self._change(lambda: FolderStore.delete(self, key))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with model A as champion, and model B trained and evaluated but not registered."""
    root = tmp_path_factory.mktemp("first") / "lake"
    make_lake(root)
    evaluated(root, accuracy=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # where MLflow puts artifacts when no server does
        patch.setenv("MLFLOW_TRACKING_URI", tracking_uri(root))
        run_register(FolderStore(root))
    with (root / "models/tiny/train/model/model.safetensors").open("ab") as file:
        file.write(b"trained longer")
    write_receipt(FolderStore(root), root, "train", "models/tiny/train/", {})
    evaluated(root, accuracy=0.5)
    return root


@pytest.fixture
def lake(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes copies of it, and names the copy's MLflow in the environment."""

    def copy(name: str) -> Path:
        root = tmp_path / name
        shutil.copytree(first, root)
        monkeypatch.chdir(root)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(root))
        return root

    return copy


def evaluated(root: Path, *, accuracy: float) -> None:
    results = root / "evaluation.json"
    measured = {
        "questions": {"by_language": {"en": {"heldout": {"accuracy": accuracy}}}},
        "bits_per_byte": {"by_language": {}},
        "contamination": {"overall": {"share": None}},
        "memorisation": {"trained": {"rate": None}},
    }
    results.write_text(json.dumps(measured))
    store_output(FolderStore(root), root, "evaluate", StageOutput({"models/tiny/evaluate/evaluation.json": results}))


def tracking_uri(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


def run_register(store: FolderStore, profile: Any = ACCEPTED) -> Receipt:
    return run_stage(register, profile, store, store.root / "work", io.StringIO())


def is_served(root: Path) -> Champion:
    """The champion, after its files were fetched as a serving pod does."""
    found = champion(tracking_uri(root), "tiny")
    into = root / "hub"
    snapshot = fetch_model(FolderStore(root), found.store_prefix, found.digest, into)
    assert sha256_file(snapshot / "model.safetensors") in found.files.values()
    shutil.rmtree(into)
    return found


def test_sec1_a_refused_model_leaves_the_champion(lake: Callable[[str], Path]) -> None:
    root = lake("lake")
    before = is_served(root)
    receipt = run_register(FolderStore(root), REFUSED)
    assert receipt.metrics["aliases"] == ["candidate"] and receipt.metrics["version"] == 2
    assert is_served(root) == before
    assert champion(tracking_uri(root), "tiny", alias="candidate").digest == receipt.metrics["digest"] != before.digest
    assert fetch_registered(FolderStore(root), "tiny", root / "export") == 2


def test_sec1_the_champion_is_still_a_base_after_a_refused_model(lake: Callable[[str], Path], tmp_path: Path) -> None:
    root = lake("lake")
    run_register(FolderStore(root), REFUSED)
    source = tmp_path / "fork.yaml"
    source.write_text(ACCEPTED.model_dump_json(exclude_unset=True))
    site = init_site(tmp_path / "site", source)
    name_base(site, "models:/tiny@champion")
    settle_base(site, FolderStore(root), lambda: nullcontext(tracking_uri(root)))
    base = site.profile.base
    assert base is not None and base.known is not None
    assert base.known.digest == champion(tracking_uri(root), "tiny").digest


def test_sec1_an_accepted_model_leaves_the_files_of_the_champion_before(lake: Callable[[str], Path]) -> None:
    root = lake("lake")
    before = is_served(root)
    receipt = run_register(FolderStore(root))
    assert is_served(root).digest == receipt.metrics["digest"]
    # Pods that were deployed with the earlier digest can start again.
    fetch_model(FolderStore(root), before.store_prefix, before.digest, root / "hub")
    # A person can roll back, and the next run of the unchanged stage does not undo that.
    open_client(tracking_uri(root)).set_registered_model_alias("tiny", "champion", "1")
    run_register(FolderStore(root))
    assert is_served(root) == before


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("profile", [ACCEPTED, REFUSED], ids=["accepted", "refused"])
def test_sec1_killed_at_any_change_of_the_store(lake: Callable[[str], Path], profile: Any, is_after: bool) -> None:
    for moment in itertools.count():
        root = lake(f"lake-{moment}")
        before, was_killed = is_served(root), False
        ending = EndingStore(root)
        ending.left, ending.is_after = moment, is_after
        try:
            receipt = run_register(ending, profile)
        except KeyboardInterrupt:
            was_killed = True
            is_served(root)  # whichever it is, it can be served
            for version in open_client(tracking_uri(root)).search_model_versions("name = 'tiny'"):
                prefix, digest = version.tags["store_prefix"], version.tags["digest"]
                fetch_model(FolderStore(root), prefix, digest, root / "hub")
            receipt = run_register(FolderStore(root), profile)  # the same command
        assert is_served(root).digest == (before.digest if profile is REFUSED else receipt.metrics["digest"])
        client = open_client(tracking_uri(root))
        assert len(client.search_model_versions("name = 'tiny'")) == 2
        assert int(client.get_registered_model("tiny").aliases["candidate"]) == 2
        shutil.rmtree(root)
        if not was_killed:
            break
    assert moment >= 8  # files, registration.json, receipt, marker


def test_sec1_alias_that_was_not_set_is_set_by_the_same_command(lake: Callable[[str], Path]) -> None:
    root = lake("lake")
    run_register(FolderStore(root))
    store = FolderStore(root)
    # As after a kill between receipt and alias.
    store.delete("models/tiny/register/published")
    open_client(tracking_uri(root)).set_registered_model_alias("tiny", "champion", "1")
    assert is_current(store, register, ACCEPTED, plan(ACCEPTED)) is None
    receipt = run_register(store)
    assert champion(tracking_uri(root), "tiny").version == receipt.metrics["version"] == 2
    assert is_current(store, register, ACCEPTED, plan(ACCEPTED)) == receipt


def test_sec1_prune_deletes_what_nothing_names(lake: Callable[[str], Path]) -> None:
    root = lake("lake")
    store, uri = FolderStore(root), tracking_uri(root)
    before = is_served(root)
    assert find_unnamed(store, uri, "tiny", ()) == []  # B is not registered yet, and has no files
    digest = run_register(store).metrics["digest"]
    assert find_unnamed(store, uri, "tiny", ()) == []  # a version names A
    open_client(uri).delete_model_version("tiny", "1")
    store.put_bytes("models/tiny/register/" + "0" * 64 + "/config.json", b"{}")  # of a run that was killed
    for digest_of_served in ("0" * 64, before.digest, digest):  # what llama.cpp loads is kept and goes with its model
        store.put_bytes(f"models/tiny/register/{digest_of_served}.served/model.gguf", b"GGUF")
    assert [one.digest for one in find_unnamed(store, uri, "tiny", {before.digest})] == ["0" * 64]  # A is served
    found = find_unnamed(store, uri, "tiny", ())
    assert sorted(one.digest for one in found) == sorted([before.digest, "0" * 64])
    assert found[0].num_bytes == sum(store.root.joinpath(key).stat().st_size for key in found[0].keys)
    delete_all(store, found)
    assert find_unnamed(store, uri, "tiny", ()) == []
    assert is_served(root).digest == digest
    assert not list(store.list(before.store_prefix))
    served = {key for key in store.list("models/tiny/register/") if key.endswith(".gguf")}
    assert served == {f"models/tiny/register/{digest}.served/model.gguf"}


def test_sec1_prune_keeps_what_register_is_storing(lake: Callable[[str], Path]) -> None:
    root = lake("lake")
    ending = EndingStore(root)
    ending.left = 2  # some of B's files, and no version yet
    with pytest.raises(KeyboardInterrupt):
        run_register(ending)
    assert len({key.split("/")[3] for key in ending.list("models/tiny/register/") if key.count("/") > 3}) == 2
    assert find_unnamed(ending, tracking_uri(root), "tiny", ()) == []


def test_sec1_prune_refuses_another_registry(lake: Callable[[str], Path], tmp_path: Path) -> None:
    root = lake("lake")
    with pytest.raises(TrainingError, match="no version of model tiny"):
        find_unnamed(FolderStore(root), f"sqlite:///{tmp_path}/other.db", "tiny", ())


def test_sec1_the_command_lists_and_then_deletes(first: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.yaml"
    source.write_text(ACCEPTED.model_dump_json(exclude_unset=True))
    site = init_site(tmp_path / "site", source)
    shutil.copytree(first, site.data_dir)
    store, key = FolderStore(site.data_dir), "models/tiny/register/" + "0" * 64 + "/config.json"
    store.put_bytes(key, b"{}")
    for options, deleted in (([], False), (["--delete"], True)):
        done = CliRunner().invoke(app, ["prune", str(site.root), "--local", "--json", *options])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found["deleted"], found["models"][0]["digest"], found["models"][0]["keys"]) == (
            deleted,
            "0" * 64,
            [key],
        )
        assert store.exists(key) is not deleted
    is_served(site.data_dir)
