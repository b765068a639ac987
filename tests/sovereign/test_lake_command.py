"""`sovereign lake`: from a site to proofs that another machine checks with two files."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.cli.sites import find_profile
from sovereign.errors import ProofError, SiteError
from sovereign.files import sha256_bytes
from sovereign.lake.commitments import make_record
from sovereign.lake.proofs import TREE_TYPE, write_proof
from sovereign.lake.stages import corpus, curate
from sovereign.site import Site, init_site
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.lake.tree import document, forge

PRESENT, ABSENT = "Texte du journal officiel.\r\n", "Texte que personne n'a donné."
PERSONAL = "Écrivez à archive@example.org pour tout renseignement."

AUDITOR = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pulumi", "kubernetes", "boto3", "mlflow", "mlcroissant"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Nothing())
sys.addaudithook(lambda event, _: sys.exit(f"{event} is not here") if event.startswith("socket.") else None)
from sovereign.cli import main
main()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose dataset is made, on this machine."""
    return make_site(tmp_path_factory.mktemp("site"), {"a.txt": PRESENT, "b.txt": PERSONAL})


def make_site(folder: Path, texts: dict[str, str]) -> Site:
    (folder / "texts").mkdir()
    for name, text in texts.items():
        (folder / "texts" / name).write_text(text)
    source = f"{{name: gazette, path: {folder / 'texts'}, owner: Archive, licence: CC-BY-4.0, language: fr}}"
    text = find_profile(Path("ci")).read_text().replace("corpus:\n", f"corpus:\n  sources: [{source}]\n")
    (folder / "profile.yaml").write_text(text)
    site = init_site(folder / "site", folder / "profile.yaml")
    make(site)
    run("manifest", site)
    return site


def make(site: Site) -> None:
    for stage in (corpus, curate):
        run_stage(stage, site.profile, FolderStore(site.data_dir), site.data_dir / "work", io.StringIO())


def run(command: str, site: Site, *arguments: object) -> Any:
    """The command's JSON."""
    words = ["lake", command, str(site.root), "--local", "--json", *map(str, arguments)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`sovereign lake check` in a folder with nothing but files, without network and big libraries."""
    command = [sys.executable, "-c", AUDITOR, "lake", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("text", "kind", "options", "rests_on", "title"),
    [
        (PRESENT, "inclusion", [], "the root", "A document with this text is in ci"),
        (ABSENT, "exclusion", [], "the issuer's word", "Stated, not proven: this text is not in ci"),
        (ABSENT, "exclusion", ["--open-key"], "the root", "This text is not in ci"),
    ],
)
def test_proof_is_checked_elsewhere_with_two_files(
    site: Site, tmp_path: Path, text: str, kind: str, options: list[str], rests_on: str, title: str
) -> None:
    (tmp_path / "text.txt").write_text(text)
    issued = run("prove", site, "--text", tmp_path / "text.txt", "--out", tmp_path / "proof.json", *options)
    shutil.copy(site.manifest_file, tmp_path / "manifest.json")
    done = audit(tmp_path, "proof.json", "--manifest", "manifest.json", "--text", "text.txt", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kind"], found["rests_on"], found["text_compared"]) == (kind, rests_on, True)
    assert found.items() >= issued.items()
    assert (tmp_path / "proof.json").stat().st_size < 4096
    if kind == "inclusion":
        assert found["record"]["owners"] == ["Archive"]
    words = audit(tmp_path, "proof.json", "--manifest", "manifest.json").stdout
    assert words.startswith(f"{title}\n")

    (tmp_path / "text.txt").write_text("Something else.")
    done = audit(tmp_path, "proof.json", "--manifest", "manifest.json", "--text", "text.txt")
    assert done.returncode == 1 and "the proof is about another text" in done.stderr
    proof = (tmp_path / "proof.json").read_text()
    (tmp_path / "proof.json").write_text(proof.replace('"index":', '"index":1'))
    done = audit(tmp_path, "proof.json", "--manifest", "manifest.json", "--json")
    assert done.returncode == 1 and done.stdout == ""
    assert audit(tmp_path, "nothing.json", "--manifest", "manifest.json").returncode == 1


def test_a_text_with_personal_data_is_found_as_it_is_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_text(PERSONAL)
    (tmp_path / "kept.txt").write_text(PERSONAL.replace("archive@example.org", "<EMAIL>"))
    issued = run("prove", site, "--text", tmp_path / "given.txt", "--out", tmp_path / "proof.json")
    assert issued["kind"] == "inclusion"
    shutil.copy(site.manifest_file, tmp_path / "manifest.json")
    assert audit(tmp_path, "proof.json", "--manifest", "manifest.json", "--text", "kept.txt").returncode == 0
    done = audit(tmp_path, "proof.json", "--manifest", "manifest.json", "--text", "given.txt")
    assert done.returncode == 1 and "personal data masked" in done.stderr


def test_no_proof_about_a_text_that_is_cleaned_in_another_way_now(copy: Site, tmp_path: Path) -> None:
    """With masks for telephone numbers only, the text would not be what the dataset keeps: "not in", though it is."""
    text = copy.profile_path.read_text()
    copy.profile_path.write_text(text.replace("corpus:\n", "corpus:\n  cleaning: {personal_data: {kinds: [phone]}}\n"))
    (tmp_path / "given.txt").write_text(PERSONAL)
    with pytest.raises(ProofError, match="not those that the dataset has"):
        run("prove", copy, "--text", tmp_path / "given.txt", "--out", tmp_path / "proof.json")
    assert not (tmp_path / "proof.json").exists()


def test_a_document_is_proven_by_its_name_and_leaves_are_made_again(site: Site, tmp_path: Path) -> None:
    for leaves in (site.data_dir / "leaves").iterdir():
        leaves.unlink()
    found = run("prove", site, "--document", "gazette/a.txt", "--out", tmp_path / "proof.json")
    assert found["record"]["doc_id"] == "gazette/a.txt"
    assert len(list((site.data_dir / "leaves").iterdir())) == 1


def test_who_asks_for_a_text_that_lost_lines_is_told_to_ask_for_the_document(tmp_path: Path) -> None:
    foot = "Direction de l'information légale, texte libre de droits."
    texts = {f"{number}.txt": f"{ABSENT * 3} Numéro {number}.\n\n{foot}\n" for number in range(12)}
    site = make_site(tmp_path, texts)
    kinds = []
    for name in texts:
        out, path = tmp_path / "proof.json", tmp_path / "texts" / name
        words = ["lake", "prove", str(site.root), "--local", "--text", str(path), "--out", str(out)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        kinds.append(json.loads(out.read_text())["kind"])
        is_told = "repeated lines were taken out of 2 documents" in done.stderr
        assert is_told == (kinds[-1] == "exclusion")
        record = run("prove", site, "--document", f"gazette/{name}", "--out", out)["record"]
        assert ("repeated-lines" in record["transforms"]) == is_told
    assert kinds.count("exclusion") == 2


def test_the_dataset_key_is_private_made_once_and_kept_out_of_git(site: Site) -> None:
    key = site.dataset_key_file
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before, first = key.read_text(), site.manifest_file.read_bytes()
    run("manifest", site)
    assert (key.read_text(), site.manifest_file.read_bytes()) == (before, first)
    assert first == (site.data_dir / "curated/ci/manifest.json").read_bytes()
    assert before.strip().encode() not in first
    assert "/dataset.key" in (site.root / ".gitignore").read_text().splitlines()


def test_what_was_stated_is_proven_when_another_proof_shows_the_key(site: Site, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(ABSENT)
    run("prove", site, "--text", tmp_path / "text.txt", "--out", tmp_path / "proof.json")
    run("prove", site, "--document", "gazette/a.txt", "--out", tmp_path / "key.json", "--open-key")
    shutil.copy(site.manifest_file, tmp_path / "manifest.json")
    words = ["proof.json", "--manifest", "manifest.json"]
    alone, confirmed = audit(tmp_path, *words), audit(tmp_path, *words, "--key", "key.json")
    assert alone.stdout.startswith("Stated, not proven: this text is not in ci\n")
    assert confirmed.stdout.startswith("This text is not in ci\n"), confirmed.stderr
    found = [json.loads(audit(tmp_path, *words, *more, "--json").stdout) for more in ((), ("--key", "key.json"))]
    assert [one.pop("rests_on") for one in found] == ["the issuer's word", "the root"]
    assert [one.pop("opening") for one in found] == ["the issuer's word", "follows from the manifest's key"]
    assert found[0] == found[1]
    done = audit(tmp_path, *words, "--key", "proof.json")
    assert done.returncode == 1 and done.stdout == "" and "should show the key does not" in done.stderr


def write_forged(folder: Path, record: dict[str, Any], text: str) -> list[str]:
    """Files of a dataset that somebody made up around one text; the arguments that check them."""
    anchor, (proof,) = forge(text, [record], "ci")
    tree = {"algorithm": TREE_TYPE, "size": anchor.size, "root": anchor.root, "keyCommitment": anchor.key_commitment}
    manifest = {"name": "ci", "sovereign:commitments": {f"sovereign:{key}": value for key, value in tree.items()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "proof.json").write_bytes(write_proof(proof))
    (folder / "text.txt").write_text(text)
    return ["proof.json", "--manifest", "manifest.json", "--text", "text.txt"]


def test_a_record_cannot_speak_for_the_check(site: Site, tmp_path: Path) -> None:
    """Neither by columns of the names that `check` prints, nor by line ends, nor by what terminals obey."""
    published = sha256_bytes(site.manifest_file.read_bytes())
    record = make_record(document(1), "train")
    claims = {"manifest_sha256": published, "root": "0" * 64, "size": 9, "dataset": "other", "text_compared": True}
    for name, value in claims.items():
        done = audit(tmp_path, *write_forged(tmp_path, record | {name: value}, PRESENT))
        assert done.returncode == 1 and done.stdout == "" and "the record has not a document's columns" in done.stderr
    hostile = f"x\n  manifest_sha256  {published}\x1b[31m\x9b1m\u202eé"
    words = write_forged(tmp_path, record | {"doc_id": hostile, "owners": [hostile]}, PRESENT)
    done = audit(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    _, *rows = done.stdout.splitlines()
    assert all(row.isprintable() for row in rows)
    (row,) = [row for row in rows if row.startswith("  manifest_sha256 ")]
    made_up = sha256_bytes((tmp_path / "manifest.json").read_bytes())
    assert row.split() == ["manifest_sha256", made_up]
    (row,) = [row for row in rows if row.startswith("  record doc_id ")]
    assert json.loads(row.removeprefix("  record doc_id").strip()) == hostile and row.endswith('é"')
    found = json.loads(audit(tmp_path, *words, "--json").stdout)
    assert (found["manifest_sha256"], found["record"]["doc_id"]) == (made_up, hostile)


@pytest.fixture
def copy(site: Site, tmp_path: Path) -> Site:
    """A copy of the site, to break."""
    return Site(shutil.copytree(site.root, tmp_path / "copy"))


def test_an_older_sites_gitignore_gets_the_key_and_keeps_its_own_lines(copy: Site) -> None:
    (copy.root / ".gitignore").write_text("/passphrase\n/mine\n")
    copy.dataset_key_file.unlink()
    copy.manifest_file.unlink()
    copy.dataset_key()
    assert (copy.root / ".gitignore").read_text() == "/passphrase\n/mine\n/dataset.key\n"


def test_a_lost_or_damaged_key_is_told_and_not_replaced(copy: Site) -> None:
    copy.dataset_key_file.write_text("00" * 31)
    with pytest.raises(SiteError, match="damaged"):
        run("manifest", copy)
    copy.dataset_key_file.write_text("not hexadecimal")
    with pytest.raises(SiteError, match="cannot be read"):
        run("manifest", copy)
    copy.dataset_key_file.unlink()
    with pytest.raises(SiteError, match="the dataset key is gone"):
        run("manifest", copy)
    assert not copy.dataset_key_file.exists()


def test_no_proof_for_a_manifest_of_something_else(copy: Site, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(PRESENT)
    arguments = ("--text", tmp_path / "text.txt", "--out", tmp_path / "proof.json")
    changed = copy.profile_path.read_text().replace("seed: 1", "seed: 2")
    assert changed != copy.profile_path.read_text()
    copy.profile_path.write_text(changed)
    make(copy)
    with pytest.raises(ProofError, match="the manifest is of other files"):
        run("prove", copy, *arguments)
    run("manifest", copy)
    assert run("prove", copy, *arguments)["kind"] == "inclusion"
    assert len(list((copy.data_dir / "leaves").iterdir())) == 1
    (copy.data_dir / "curated/ci/manifest.json").unlink()
    with pytest.raises(ProofError, match="has no manifest"):
        run("prove", copy, *arguments)


def test_damaged_leaves_give_no_proof(copy: Site, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(PRESENT)
    arguments = ("--text", tmp_path / "text.txt", "--out", tmp_path / "proof.json")
    (leaves,) = (copy.data_dir / "leaves").iterdir()
    with closing(sqlite3.connect(leaves)) as database, database:
        database.execute("UPDATE leaves SET leaf = zeroblob(64) WHERE rowid % 2")
    for damage in (b"", b"no database at all" * 500):
        with pytest.raises(ProofError, match=r"no proof can be made(.|\n)*it is made again"):
            run("prove", copy, *arguments)
        leaves.write_bytes(damage)
    assert not (tmp_path / "proof.json").exists()
    leaves.unlink()
    assert run("prove", copy, *arguments)["kind"] == "inclusion"


def test_what_a_proof_is_about_must_be_clear(site: Site, tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ProofError, match="not clear"):
        run("prove", site, "--out", tmp_path / "proof.json")
    with pytest.raises(ProofError, match="not clear"):
        run("prove", site, "--text", tmp_path / "latin1.txt", "--document", "x", "--out", tmp_path / "proof.json")
    with pytest.raises(ProofError, match="not UTF-8"):
        run("prove", site, "--text", tmp_path / "latin1.txt", "--out", tmp_path / "proof.json")
    assert not (tmp_path / "proof.json").exists()


def test_documents_that_were_set_aside_can_be_looked_at(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(PRESENT)
    (folder / "b.txt").write_text(PRESENT)
    (folder / "c.txt").write_text("Cou\u202ert.")
    text = site.profile_path.read_text().replace(str(site.root.parent / "texts"), str(folder))
    (tmp_path / "profile.yaml").write_text(text)
    own = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    make(own)
    found = run("rejected", own)
    assert found["by_reason"] == {"duplicate": 1, "too short": 1}
    assert {one["doc_id"].rpartition("/")[2] for one in found["documents"]} == {"b.txt", "c.txt"}
    (one,) = run("rejected", own, "--reason", "too")["documents"]
    assert (one["text"], one["reason"], one["owners"]) == ("Cou\u202ert.", "too short", ["Archive"])
    assert run("rejected", own, "--limit", 1)["more"] == 1
    words = CliRunner().invoke(app, ["lake", "rejected", str(own.root), "--local", "--document", one["doc_id"]])
    assert "gazette/c.txt (fr, Archive): too short\nCou\\u202ert." in words.output
