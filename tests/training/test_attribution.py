"""`sovereign lake influence` and `rewards` on a trained model: killed and gone on, and every sum made again."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.errors import ProfileError, ProofError, PublicationError, TrainingError
from sovereign.files import sha256_file, write_atomic
from sovereign.lake.documents import read_documents
from sovereign.site import Site, init_site
from sovereign.stages import load_stage, run_stage
from sovereign.store import open_store
from tests.training.conftest import PROFILE, Start
from training.influence import RESULT, Influence, small_profile

REWARDS = {"fund": {"amount": 1000}, "floor": 5, "cap": {"exponent": 0.5}, "influence_weight": 1000}
NUM_STEPS = 12


def run(*arguments: str | Path) -> Any:
    """`sovereign lake …` with --json; errors come through."""
    words = ["lake", *map(str, arguments), "--local", "--json"]
    return json.loads(CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False).stdout)


@pytest.fixture(scope="module")
def site(tokens: Path, tmp_path_factory: pytest.TempPathFactory, start_training: Start) -> Site:
    """A site with a trained model and the influence of one owner."""
    folder = tmp_path_factory.mktemp("attribution")
    write_atomic(folder / "tiny.yaml", json.dumps(PROFILE | {"rewards": REWARDS}))
    site = init_site(folder / "site", folder / "tiny.yaml")
    shutil.copytree(tokens, site.data_dir)
    training = start_training(folder / "tiny.yaml", site.data_dir, folder / "work", folder / "log")
    training.join()
    assert training.exitcode == 0, (folder / "log").read_text()
    (owner,) = _measure(site, folder / "none").left_out.keys() & {"University of Tamurel"}
    run("influence", site.root, "--owner", owner)
    return site


def _measure(site: Site, folder: Path, **options: Any) -> Influence:
    return Influence(small_profile(site.profile), open_store(f"file://{site.data_dir}"), folder, **options)


@pytest.fixture
def influence(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site.data_dir / "influence" / RESULT).read_bytes())
    return found


def test_influence_is_the_difference_of_the_runs(influence: dict[str, Any]) -> None:
    assert [(one["seed"], one["without"]) for one in influence["runs"]] == [
        (seed, owner) for seed in (0, 1) for owner in (None, "University of Tamurel")
    ]
    assert len({one["weights_sha256"] for one in influence["runs"]}) == 4
    found = influence["owners"]["University of Tamurel"]
    assert found["left_out"]["documents"] > 0
    assert len(found["tokens_read"]) == 2 and min(found["tokens_read"]) > 0
    assert max(found["tokens_read"]) <= NUM_STEPS * 256
    bits = [one["heldout"]["bits"] / one["heldout"]["bytes"] for one in influence["runs"]]
    effect = found["effects"]["bits_per_byte"]
    assert effect["differences"] == pytest.approx([bits[1] - bits[0], bits[3] - bits[2]], abs=1e-6)
    assert effect["low"] <= effect["mean"] <= effect["high"]
    assert influence["plan"]["recipe"]["num_steps"] == NUM_STEPS


def test_a_killed_measure_goes_on_and_ends_the_same(site: Site, influence: dict[str, Any], tmp_path: Path) -> None:
    owners = list(influence["owners"])
    kills = [NUM_STEPS + 1, 3 * NUM_STEPS + 1]
    """Steps at which the run's process is killed: in the second run and in the last."""
    begun: list[str] = []

    def report(text: str, done: int, _total: int) -> None:
        begun.append(text)
        if kills and done == kills[0]:
            kills.pop(0)
            for process in multiprocessing.active_children():
                process.kill()

    for expected in (1, 3):
        with pytest.raises(TrainingError, match="ended without a result"):
            _measure(site, tmp_path, owners=owners).measure(report)
        assert _measure(site, tmp_path, owners=owners).num_runs == (expected, 4)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    begun.clear()
    _measure(site, tmp_path, owners=owners).measure(report)
    assert begun[:3] == [f"{label}: done before" for label in _labels(owners[0])[:3]]
    assert first.items() <= {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}.items()
    assert (tmp_path / RESULT).read_bytes() == (site.data_dir / "influence" / RESULT).read_bytes()


def _labels(owner: str) -> list[str]:
    return [f"seed {seed}, {what}" for seed in (0, 1) for what in ("all owners", f"without {owner}")]


def test_other_settings_take_no_run_of_these(site: Site, influence: dict[str, Any]) -> None:
    folder, owners = site.data_dir / "influence", list(influence["owners"])
    assert _measure(site, folder, owners=owners).num_runs == (4, 4)
    assert _measure(site, folder, owners=owners, num_seeds=3).num_runs == (4, 6)
    store = open_store(f"file://{site.data_dir}")
    longer = small_profile(site.profile, tokens=2 * NUM_STEPS * 256)
    assert Influence(longer, store, folder, owners=owners).num_runs == (0, 4)


def test_the_fund_is_divided_by_what_training_took(site: Site, influence: dict[str, Any]) -> None:
    report = run("rewards", site.root)
    ledger = json.loads((site.data_dir / "models/tiny/train/ledger.json").read_text())
    rows = {row["owner"]: row for row in report["owners"]}
    assert sum(row["units"] for row in rows.values()) == 100_000
    for owner, own in ledger["by_owner"].items():
        (tier,) = rows[owner]["consumed"]  # the demonstration's documents are too short to be judged
        assert (tier["tier"], sum(tier["tokens_by_owners"].values())) == ("unmeasured", own["tokens"])
    assert all(len(row["licences"]) >= 1 for row in rows.values())
    low = influence["owners"]["University of Tamurel"]["effects"]["bits_per_byte"]["low"]
    assert float(rows["University of Tamurel"]["influence"]) == low
    assert [name for name, row in rows.items() if row["influence"] is not None] == ["University of Tamurel"]
    assert report["inputs"]["influence"] == sha256_file(site.data_dir / "influence" / RESULT)
    assert report["inputs"]["models/tiny/train/ledger.json"] == sha256_file(
        site.data_dir / "models/tiny/train/ledger.json"
    )
    page = (site.receipts_dir / "rewards.md").read_text()
    assert all(row["sum"] in page and row["points"] in page for row in rows.values())


def test_a_report_is_checked_against_its_inputs(site: Site, tmp_path: Path) -> None:
    run("rewards", site.root, "--out", tmp_path / "rewards.json")
    run("rewards", site.root, "--check", tmp_path / "rewards.json")
    report = json.loads((tmp_path / "rewards.json").read_text())
    report["owners"][0]["units"] += 1
    (tmp_path / "other.json").write_text(json.dumps(report))
    with pytest.raises(ProofError, match="got: other owners\n"):
        run("rewards", site.root, "--check", tmp_path / "other.json")
    changed = json.loads((site.data_dir / "influence" / RESULT).read_bytes())
    changed["owners"]["University of Tamurel"]["effects"]["bits_per_byte"]["low"] = 0.5
    (tmp_path / "influence.json").write_text(json.dumps(changed))
    with pytest.raises(ProofError, match="got: other inputs, total_points, owners\n"):
        run("rewards", site.root, "--check", tmp_path / "rewards.json", "--influence", tmp_path / "influence.json")


def test_the_next_version_of_the_dataset_changes_no_report(site: Site, tmp_path: Path) -> None:
    """An owner whose text was trained on is paid for it, though the dataset has nothing of it any more."""
    run("rewards", site.root, "--out", tmp_path / "first.json")
    later = Site(Path(shutil.copytree(site.root, tmp_path / "later")))
    arguments = ["lake", "withdraw", str(later.root), "--owner", "University of Tamurel"]
    CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    store = open_store(f"file://{later.data_dir}")
    run_stage(load_stage("curate"), later.profile, store, tmp_path / "work", io.StringIO())
    files = sorted((later.data_dir / "curated/tiny").glob("[ht]*-*.parquet"))
    assert all("University of Tamurel" not in document.owners for document in read_documents(files))
    run("rewards", later.root, "--check", tmp_path / "first.json")
    run("rewards", later.root, "--out", tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    assert '"owner":"University of Tamurel"' in (tmp_path / "second.json").read_text()
    run_stage(load_stage("tokenize"), later.profile, store, tmp_path / "work", io.StringIO())
    with pytest.raises(TrainingError, match="is not what the model was trained with"):
        run("rewards", later.root, "--check", tmp_path / "first.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [("report.md", "a name with .json"), (".", "a name with .json"), ("file/report.json", "cannot write")],
)
def test_a_report_that_cannot_be_written_is_an_error(site: Site, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublicationError, match=message):
        run("rewards", site.root, "--out", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_influence_of_other_data_is_refused(site: Site, influence: dict[str, Any], tmp_path: Path) -> None:
    influence["inputs"] = dict.fromkeys(influence["inputs"], "0" * 64)
    for content, message in ((json.dumps(influence), "on other data"), ("{}", "not an influence report")):
        (tmp_path / "influence.json").write_text(content)
        with pytest.raises(ProofError, match=message):
            run("rewards", site.root, "--influence", tmp_path / "influence.json")
    with pytest.raises(ProofError, match="cannot read the influence report"):
        run("rewards", site.root, "--influence", tmp_path / "nothing.json")


def test_a_profile_without_a_fund_is_told_so(profile_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="does not say how a fund is divided"):
        run("rewards", init_site(tmp_path / "site", profile_file).root)


WITHOUT_TORCH = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "deepspeed", "transformers", "pulumi", "mlflow"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Nothing())
from sovereign.cli import main
main()
"""


def test_a_report_is_checked_without_torch(site: Site, tmp_path: Path) -> None:
    report = tmp_path / "rewards.json"
    run("rewards", site.root, "--out", report)
    words = ["lake", "rewards", str(site.root), "--local", "--check", str(report)]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rewards.json is what its inputs give" in done.stderr
