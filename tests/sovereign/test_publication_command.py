"""`sovereign lake card` and `lake summary` on a site of this machine."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign.cli.app import app
from sovereign.cli.sites import find_profile
from sovereign.errors import ProofError, PublicationError
from sovereign.lake.stages import corpus, curate
from sovereign.receipts import Receipt
from sovereign.site import Site, init_site
from sovereign.stages import run_stage
from sovereign.store import FolderStore

STATED = """
publication:
  summary_version: "1"
  last_update: 2026-11-25
  provider_name: Ministry of Digital Affairs
  provider_contact: ai@ministry.example
  is_in_union: true
  model_names: [ci-1]
  placed_on_market: 2026-12-01
  types_of_content: facts about a fictional country
  is_trained_on_newer_data: false
  is_code_of_practice_signatory: false
  opt_out_policy: no text of others was taken
  illegal_content: none was found by reading
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    site = init_site(folder / "site", find_profile(Path("ci")))
    for stage in (corpus, curate):
        run_stage(stage, site.profile, FolderStore(site.data_dir), site.data_dir / "work", io.StringIO())
    assert run("manifest", site).exit_code == 0
    return site


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return Site(shutil.copytree(made.root, tmp_path / "site"))


def run(command: str, site: Site, *arguments: object) -> Result:
    words = ["lake", command, str(site.root), "--local", *map(str, arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_the_card_lies_in_the_site_or_where_it_is_wanted(site: Site, tmp_path: Path) -> None:
    done = run("card", site)
    assert done.exit_code == 0
    assert "Documents carry no addresses" in done.stdout
    found = run("card", site, "--out", tmp_path / "elsewhere", "--json")
    numbers = json.loads(found.stdout)
    assert numbers["card"] == str(tmp_path / "elsewhere" / "README.md")
    train = FolderStore(site.data_dir).get_bytes("curated/ci/receipt.json")
    assert numbers["splits"]["train"]["documents"] == Receipt.from_bytes(train).metrics["train"]["documents"]
    for path in (site.root / "card").iterdir():
        assert path.read_bytes() == (tmp_path / "elsewhere" / path.name).read_bytes()


def test_the_summary_lists_what_is_missing_and_is_strict_when_asked(site: Site, tmp_path: Path) -> None:
    page, data = tmp_path / "summary.html", tmp_path / "summary.json"
    done = run("summary", site, "--html", page, "--json", data)
    assert done.exit_code == 0
    missing = [one["key"] for one in json.loads(data.read_text())["missing"]]
    assert len(missing) == 12
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == missing
    assert page.read_text().startswith("<!DOCTYPE html>\n")
    assert run("summary", site, "--strict").exit_code == 1
    site.profile_path.write_text(site.profile_path.read_text() + STATED)
    done = run("summary", site, "--json", data, "--strict")
    assert (done.exit_code, done.stdout) == (0, "All that the template asks is stated\n")
    assert json.loads(data.read_text())["sections"]["1.3"]["latest_data"] == "2026-01"


def test_tokens_are_those_of_the_tokenizer_that_read_these_files(site: Site, tmp_path: Path) -> None:
    store, data = FolderStore(site.data_dir), tmp_path / "summary.json"
    curated = Receipt.from_bytes(store.get_bytes("curated/ci/receipt.json"))
    counted = curated.model_copy(
        update={"stage": "tokenize", "inputs": curated.outputs, "metrics": {"train": {"tokens": 2 * 10**9}}}
    )

    def overall() -> tuple[int | None, str]:
        assert run("summary", site, "--json", data).exit_code == 0
        section = json.loads(data.read_text())["sections"]["1.3"]
        return section["tokens"], section["size_range"]

    assert overall() == (None, "less than 1 billion tokens")
    store.put_bytes("models/ci/tokens/receipt.json", counted.to_bytes())
    assert overall() == (2 * 10**9, "1 billion to 10 trillion tokens")
    other = dict.fromkeys(curated.outputs, "0" * 64)
    store.put_bytes("models/ci/tokens/receipt.json", counted.model_copy(update={"inputs": other}).to_bytes())
    assert overall() == (None, "less than 1 billion tokens")


def test_a_place_that_cannot_be_written_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command, option in (("card", "--out"), ("summary", "--html"), ("summary", "--json")):
        with pytest.raises(PublicationError, match="cannot write"):
            run(command, site, option, tmp_path / "file" / "out")


def test_without_a_manifest_nothing_is_written(site: Site, tmp_path: Path) -> None:
    (site.data_dir / "curated/ci/manifest.json").unlink()
    for command, option in (("card", "--out"), ("summary", "--html")):
        with pytest.raises(ProofError, match="dataset ci has no manifest"):
            run(command, site, option, tmp_path / "out")
        assert not (tmp_path / "out").exists()
