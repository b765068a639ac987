"""`sovereign lake record|ls|show|query|diff|history` on a site whose dataset the stages made."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sovereign.cli.app import app
from sovereign.cli.sites import find_profile
from sovereign.cli.work import run_until
from sovereign.errors import CatalogError, ProofError
from sovereign.lake.stages import corpus, curate
from sovereign.site import Site, init_site
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.lake.recorded import document, publish

AGREED = "owners: [{name: Archive, consent: contract of 2026-03-01}]"


def run(site: Site, command: str, *arguments: object) -> Result:
    words = ["lake", command, str(site.root), *map(str, arguments), "--local"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def listed(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(site, "ls", "--json").stdout)["versions"]
    return found


class Made:
    """A site on this machine with two recorded versions of its dataset."""

    def __init__(self, folder: Path) -> None:
        self.texts = folder / "texts"
        self.texts.mkdir()
        (self.texts / "a.txt").write_text("Texte du journal officiel.")
        (self.texts / "b.txt").write_text("Texte du musée, qui est plus long.")
        source = f"{{name: gazette, path: {self.texts}, owner: Archive, licence: CC-BY-4.0, language: fr}}"
        text = (
            find_profile(Path("ci")).read_text().replace("corpus:\n", f"corpus:\n  {AGREED}\n  sources: [{source}]\n")
        )
        (folder / "profile.yaml").write_text(text)
        self.site = init_site(folder / "site", folder / "profile.yaml")
        self.versions = [self.make()]
        (self.texts / "a.txt").write_text("Texte du journal officiel, corrigé.")
        (self.texts / "c.txt").write_text("Un texte de plus.")
        self.versions.append(self.make())

    def make(self) -> dict[str, Any]:
        for stage in (corpus, curate):
            store, work = FolderStore(self.site.data_dir), self.site.data_dir / "work"
            run_stage(stage, self.site.profile, store, work, io.StringIO())
        found: dict[str, Any] = self.json("record")
        assert found["recorded_now"]
        return found

    def run(self, command: str, *arguments: object) -> Result:
        return run(self.site, command, *arguments)

    def json(self, command: str, *arguments: object) -> Any:
        return json.loads(self.run(command, *arguments, "--json").stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("site"))


def test_recording_again_says_so(made: Made) -> None:
    again = made.json("record")
    assert again == made.versions[1] | {"recorded_now": False}
    assert "was recorded already" in made.run("record").stderr
    assert (made.site.data_dir / "catalog.sqlite").is_file()


def test_ls_has_every_version_the_newest_first(made: Made) -> None:
    found = made.json("ls")
    assert [one["version"] for one in found["versions"]] == [made.versions[1]["version"], made.versions[0]["version"]]
    assert [one["newest"] for one in found["versions"]] == [True, False]
    receipt = json.loads((made.site.data_dir / "curated/ci/receipt.json").read_bytes())["predicate"]
    counts = [receipt["metrics"][split]["documents"] for split in ("train", "heldout")]
    assert found["versions"][0]["documents"] == sum(counts) == found["versions"][1]["documents"] + 1
    assert found["versions"][0]["languages"] == ["ar", "en", "fr", "zh"]
    assert Path(found["metadata"]["documents"].removeprefix("file://")).is_file()
    words = made.run("ls").stdout.splitlines()
    assert words[0] == "Datasets" and "newest" in words[1] and made.versions[0]["name"] in words[2]
    one = made.run("ls", "--limit", 1)
    assert "and 1 versions more" in one.stderr and len(one.stdout.splitlines()) == 2
    assert made.json("ls", "--limit", 1)["more"] == 1


def test_show_has_the_counts_of_a_version(made: Made) -> None:
    found = made.json("show")
    assert found["version"] == made.versions[1]["version"]
    owners = {one["owner"]: one for one in found["owners"]}
    assert (owners["Archive"]["documents"], owners["Archive"]["consent"]) == (3, "contract of 2026-03-01")
    assert sum(one["documents"] for one in found["languages"]) == found["documents"]
    assert sum(one["documents"] for one in found["licences"]) == found["documents"]
    old = made.json("show", f"ci@{made.versions[0]['version'][:10]}")
    assert {one["owner"]: one["documents"] for one in old["owners"]}["Archive"] == 2
    words = made.run("show").stdout
    assert "owner Archive" in words and "3 documents, consent: contract of 2026-03-01" in words


def test_show_has_one_document(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made.json("show", "--document", "gazette/a.txt")
    assert (found["text"], found["owners"]) == ("Texte du journal officiel, corrigé.", ["Archive"])
    old = made.json("show", made.versions[0]["version"], "--document", "gazette/a.txt")
    assert old["text"] == "Texte du journal officiel."
    monkeypatch.setattr("sovereign.cli.catalog._TEXT", 14)
    done = made.run("show", "--document", "gazette/b.txt")
    assert "CC-BY-4.0" in done.stdout and "Texte du musée" in done.stdout
    assert "there are 20 characters more" in done.stderr and "qui" not in done.stdout


def test_query(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT doc_id, text, quality FROM documents WHERE source = 'gazette' ORDER BY doc_id"
    found = made.json("query", sql)
    assert [row["doc_id"] for row in found["rows"]] == ["gazette/a.txt", "gazette/b.txt", "gazette/c.txt"]
    assert not found["more"]
    assert len(made.json("query", sql, "--at", made.versions[0]["version"])["rows"]) == 2
    monkeypatch.setattr("sovereign.cli.catalog._CELL", 15)
    done = made.run("query", sql, "--limit", 2)
    assert done.stdout.splitlines() == [
        "doc_id\ttext\tquality",
        "gazette/a.txt\tTexte du journ…\t",
        "gazette/b.txt\tTexte du musée…\t",
    ]
    assert "more than these 2 rows" in done.stderr


def test_a_query_in_json_loses_no_column_and_is_json(made: Made) -> None:
    sql = """
    SELECT 'nan'::DOUBLE AS a, [1.5, 'inf'::DOUBLE] AS b, {'x': '-inf'::FLOAT} AS c, MAP {DATE '2026-11-25': 2} AS d,
      row(1, 'nan'::FLOAT) AS e, MAP {'nan'::FLOAT: 1} AS f, 'nan' AS g
    """
    found = json.loads(made.run("query", sql, "--json").stdout, parse_constant=pytest.fail)
    assert found["rows"] == [
        {
            "a": None, "b": [1.5, None], "c": {"x": None}, "d": {"2026-11-25": 2}, "e": [1, None], "f": {"nan": 1},
            "g": "nan",
        }
    ]  # fmt: skip
    joined = "SELECT a.doc_id, b.doc_id FROM documents a JOIN documents b ON a.doc_id = b.doc_id LIMIT 1"
    with pytest.raises(CatalogError, match=r"columns of the same name(.|\n)*got: doc_id(.|\n)*AS"):
        made.json("query", joined)
    assert made.run("query", joined).stdout.splitlines()[0] == "doc_id\tdoc_id"


def test_limits_that_no_list_reaches_are_refused(made: Made) -> None:
    for words in (["query", str(made.site.root), "SELECT 1"], ["ls", str(made.site.root)]):
        done = CliRunner().invoke(app, ["lake", *words, "--local", "--limit", str(2**63)])
        assert (done.exit_code, "--limit" in done.output) == (2, True)


def test_a_first_recording_that_was_interrupted_shows(tmp_path: Path) -> None:
    """As when it ended after the documents' commit, before the other tables were there."""
    site = init_site(tmp_path / "site", find_profile(Path("ci")))
    publish(FolderStore(site.data_dir), tmp_path, [document(number) for number in range(5)], name="ci")
    run(site, "record")
    with closing(sqlite3.connect(site.data_dir / "catalog.sqlite")) as database, database:
        database.execute("DELETE FROM iceberg_tables WHERE table_name <> 'documents'")
    (found,) = listed(site)
    assert (found["dataset"], found["documents"]) == ("ci", None)
    assert "counts are missing, since that was interrupted" in run(site, "ls").stdout
    shown = json.loads(run(site, "show", "--json").stdout)
    assert (shown["name"], shown["owners"], shown["licences"]) == (found["name"], [], [])
    run(site, "show")
    assert not json.loads(run(site, "record", "--json").stdout)["recorded_now"]
    assert listed(site)[0]["documents"] == 5


def test_a_site_may_be_in_a_folder_of_any_name(tmp_path: Path) -> None:
    site = init_site(tmp_path / "a#b?c%20d" / "site", find_profile(Path("ci")))
    publish(FolderStore(site.data_dir), tmp_path, [document(number) for number in range(5)], name="ci")
    run(site, "record")
    assert listed(site)[0]["documents"] == 5
    rows = json.loads(run(site, "query", "SELECT count(*) AS n FROM documents", "--json").stdout)["rows"]
    assert rows == [{"n": 5}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a#b?c%20d", "work"]


def test_diff(made: Made) -> None:
    old, new = (one["version"] for one in made.versions)
    found = made.json("diff", old, new, "--list")
    assert found["documents"] == {"added": 1, "removed": 0, "changed": 1}
    assert [(one["doc_id"], one["change"]) for one in found["listed"]] == [
        ("gazette/a.txt", "changed"),
        ("gazette/c.txt", "added"),
    ]
    assert found["owners"] == {"Archive": {"added": 1, "changed": 1}}
    done = made.run("diff", old, "ci", "--list", "--limit", 1)
    assert "changed  gazette/a.txt" in done.stdout and "text" in done.stdout
    assert "more than these 1 documents" in done.stderr
    assert "gazette/a.txt" not in made.run("diff", old, new).stdout


def test_history(made: Made) -> None:
    found = made.json("history", "ci")
    assert [one["snapshot_id"] for one in found["snapshots"]] == [one["snapshot_id"] for one in reversed(made.versions)]
    assert [one["operation"] for one in found["snapshots"]] == ["overwrite", "append"]
    assert made.json("history") == found
    done = made.run("history", "--limit", 1)
    assert made.versions[1]["name"] in done.stdout and "and 1 snapshots more" in done.stderr


def test_what_is_not_there_is_told(made: Made, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=rf"no such version(.|\n)*{made.versions[0]['name']}"):
        made.run("show", "ci@0000")
    with pytest.raises(CatalogError, match="no such dataset"):
        made.run("history", "other")
    site = init_site(tmp_path / "site", find_profile(Path("ci")))
    with pytest.raises(CatalogError, match=r"nothing is recorded(.|\n)*sovereign lake record"):
        run(site, "ls")
    assert not (site.data_dir / "catalog.sqlite").exists()
    with pytest.raises(ProofError, match="dataset ci is not made yet"):
        run(site, "record")


def test_the_profiles_database_takes_the_place_of_the_file(tmp_path: Path) -> None:
    text = find_profile(Path("ci")).read_text() + "datalake: {catalog: 'postgresql://nobody@127.0.0.1:1/catalog'}\n"
    (tmp_path / "profile.yaml").write_text(text)
    site = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        run(site, "ls")


def test_stages_record_what_curate_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = init_site(tmp_path / "site", find_profile(Path("ci")))
    run_until(site, "curate", local=True)
    found = listed(site)
    assert [one["dataset"] for one in found] == ["ci"]
    run_until(site, "curate", local=True)
    assert listed(site) == found
    assert "not in the catalog" not in capsys.readouterr().err


def test_a_catalog_that_does_not_answer_stops_no_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = find_profile(Path("ci")).read_text() + "datalake: {catalog: 'postgresql://nobody@127.0.0.1:1/catalog'}\n"
    (tmp_path / "profile.yaml").write_text(text)
    site = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    assert run_until(site, "curate", local=True)["curate"].outputs
    assert f"sovereign lake record {site.root} --local" in capsys.readouterr().err


LONG = """SELECT a.text || b.i AS t FROM documents a, range(40000000) b(i) ORDER BY t"""
"""It sorts some gigabytes, which DuckDB spills."""
ENDLESS = "SELECT count(*) FROM range(100000000000) a(i), documents b WHERE hash(a.i) = 7"


@pytest.mark.parametrize(
    ("sql", "number", "code"), [(ENDLESS, signal.SIGINT, 130), (LONG, signal.SIGINT, 130), (LONG, signal.SIGTERM, 143)]
)
def test_l16_a_long_query_ends_when_asked_to_and_leaves_nothing(
    sql: str, number: signal.Signals, code: int, made: Made, tmp_path: Path
) -> None:
    # A shell lets commands in the background, and so all tests of such a run, ignore Ctrl-C.
    main = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'sovereign'; "
    main += "from sovereign.cli import main; main()"
    command = [sys.executable, "-c", main, "lake", "query", str(made.site.root), sql, "--local"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        made_for_it = "sovereign-query-*" if sql == ENDLESS else "sovereign-query-*/*"
        while not any(tmp_path.glob(made_for_it)):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)  # it has begun, and would take minutes
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said and len(said.splitlines()) <= 1
    assert not list(tmp_path.glob("sovereign-query-*"))
