"""`sovereign lake rights`, `withdraw` and `where`, from a site to its datasets, token shards, models and exports."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.cli.catalog import open_catalog
from sovereign.cli.sites import find_profile
from sovereign.cli.where import read_exports, record_export
from sovereign.errors import ProfileError, SiteError, StageError
from sovereign.files import sha256_bytes
from sovereign.plan import plan
from sovereign.receipts import Receipt, model_digest
from sovereign.runner import keep_receipt
from sovereign.site import Site, init_site
from sovereign.stages import load_stage, run_stage
from sovereign.store import FolderStore
from training.resume import resolved_config

CHECKPOINT = "models/ci/train/checkpoints/0123abcd/step-00000001"
GAZETTE = [
    {"id": "1", "text": "Le musée ouvre à neuf heures du matin.", "owner": "Musée"},
    {"id": "2", "text": "La rivière traverse la vieille ville.", "owner": "Office des eaux"},
    {"id": "3", "text": "La rivière traverse la vieille ville.", "owner": "Musée", "licence": "CC-BY-NC-4.0"},
]


def run(command: str, site: Site, *arguments: object, local: bool = True) -> Any:
    """The command's JSON."""
    words = ["lake", command, str(site.root), "--local", "--json", *map(str, arguments)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def say(command: str, site: Site, *arguments: object) -> str:
    """What the command tells people."""
    done = CliRunner().invoke(app, ["lake", command, str(site.root), *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def make(site: Site, *stages: str) -> None:
    """Run stages and keep their receipts, as `sovereign stage` does."""
    for name in stages:
        receipt = run_stage(load_stage(name), site.profile, store(site), site.data_dir / "work" / name, io.StringIO())
        keep_receipt(receipt, site.receipts_dir)


def store(site: Site) -> FolderStore:
    return FolderStore(site.data_dir)


def pretend(
    site: Site, stage: str, inputs: dict[str, str], metrics: dict[str, Any], files: dict[str, bytes]
) -> Receipt:
    """The receipt of a stage that takes too long for a test, with small files in place of its own."""
    prefix = f"models/ci/{stage}/"
    outputs = {prefix + name: sha256_bytes(content) for name, content in files.items()}
    for name, content in files.items():
        store(site).put_bytes(prefix + name, content)
    receipt = Receipt(
        stage=stage, inputs=inputs, outputs=outputs, config_digest="0" * 64,
        key=sha256_bytes(repr((stage, inputs)).encode()),
        metrics=metrics, started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:01:00+00:00", seconds=60.0,
        made_by="test", code_version="0",
    )  # fmt: skip
    store(site).put_bytes(prefix + "receipt.json", receipt.to_bytes())
    keep_receipt(receipt, site.receipts_dir)
    return receipt


def train(site: Site) -> tuple[Receipt, str]:
    """A model of the present shards, registered; its training's receipt and its digest."""
    tokens = Receipt.from_bytes(store(site).get_bytes("models/ci/tokens/receipt.json"))
    seen = {name: {"tokens": 100, "share": 100.0} for name in ("Musée", "Office des eaux")}
    weights = f"weights of {model_digest(tokens.outputs)}".encode()
    files = {"model/model.safetensors": weights, "ledger.json": json.dumps({"by_owner": seen}).encode()}
    training = pretend(site, "train", tokens.outputs, {}, files)
    digest = model_digest({"model.safetensors": sha256_bytes(weights)})
    pretend(site, "register", training.outputs, {"version": 1, "digest": digest}, {"registration.json": b"{}"})
    config = resolved_config(site.profile, plan(site.profile), tokens.outputs)
    manifest = f"{CHECKPOINT}/manifest.json"
    store(site).put_bytes(manifest, json.dumps({"config": config}).encode())
    return training, digest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose text is gathered and curated."""
    (tmp_path / "gazette.jsonl").write_text("".join(json.dumps(one) + "\n" for one in GAZETTE))
    entry = f"{{name: gazette, path: {tmp_path / 'gazette.jsonl'}, owner: Archives, licence: CC-BY-4.0, language: fr}}"
    owner = "{name: Musée, kind: institution, contact: musee@example.org}"
    text = find_profile(Path("ci")).read_text()
    (tmp_path / "profile.yaml").write_text(
        text.replace("corpus:\n", f"corpus:\n  sources: [{entry}]\n  owners: [{owner}]\n")
    )
    site = init_site(tmp_path / "site", tmp_path / "profile.yaml")
    make(site, "corpus", "curate")
    return site


def test_rights_lists_owners_licences_and_what_may_not_be_trained_on(site: Site) -> None:
    found = run("rights", site)
    musee = {"documents": 2, "is_registered": True, "is_withdrawn": False, "kind": "institution"}
    assert found["owners"]["Musée"] == musee | {"contact": "musee@example.org"}
    assert found["owners"]["Office des eaux"] == {"documents": 1, "is_registered": False, "is_withdrawn": False}
    assert found["licences"]["CC-BY-NC-4.0"] == {"documents": 1, "not_trainable": 0}
    assert found["set_aside"] == {}
    licences = sorted(set(found["licences"]) - {"CC-BY-NC-4.0"})
    changed = site.profile_path.read_text().replace(
        "corpus:\n", f"corpus:\n  rights: {{trainable: {json.dumps(licences)}}}\n"
    )
    site.profile_path.write_text(changed)
    with pytest.raises(StageError, match=r"gazette/gazette\.jsonl#3"):
        make(site, "curate")
    found = run("rights", site)
    refused = {"doc_id": "gazette/gazette.jsonl#3", "owners": ["Musée"], "licence": "CC-BY-NC-4.0"}
    assert found["set_aside"] == {"licence not trainable": [refused]}
    told = say("rights", site, "--local")
    assert "CC-BY-NC-4.0" in told and "not trainable" in told and "gazette/gazette.jsonl#3" in told


def test_two_spellings_are_one_licence(site: Site) -> None:
    source = site.root.parent / "gazette.jsonl"
    source.write_text(source.read_text().replace("CC-BY-NC-4.0", "cc-by-nc-4.0"))
    make(site, "corpus")
    assert run("rights", site)["licences"]["CC-BY-NC-4.0"]["documents"] == 1


def test_withdrawal_is_recorded_once_and_the_next_version_is_without(site: Site) -> None:
    before = run("where", site, "--owner", "Musée")
    assert before["corpus"]["files"] == {"raw/ci/documents-00001.parquet": 2}
    assert len(before["datasets"]) == 1 and before["datasets"][0]["documents"] == 2
    told = say("withdraw", site, "--owner", "Musée", "--reason", "contract ended", "--date", "2026-05-01")
    assert "sovereign stage curate" in told and "sovereign lake where" in told
    record = site.withdrawals_file.read_bytes()
    assert record == '{"date":"2026-05-01","owner":"Musée","reason":"contract ended"}\n'.encode()
    assert "recorded before" in say("withdraw", site, "--owner", "Musée")
    assert site.withdrawals_file.read_bytes() == record
    make(site, "curate")
    after = run("where", site, "--owner", "Musée")
    assert after["curated"]["documents"] == []
    assert set(after["curated"]["rejected"].values()) == {"withdrawn owner"}
    (former,) = after["datasets"]
    assert not former["is_current"] and former["version"] == before["datasets"][0]["version"]
    assert run("rights", site)["owners"]["Musée"]["is_withdrawn"]
    other = run("where", site, "--owner", "Office des eaux")
    assert [one["is_current"] for one in other["datasets"]] == [True, False]


def test_where_finds_an_owner_however_the_name_is_spelled(site: Site) -> None:
    make(site, "tokenize")
    train(site)
    found = run("where", site, "--owner", unicodedata.normalize("NFD", " Musée\u00a0"))
    assert found == run("where", site, "--owner", "Musée")
    assert found["owner"] == "Musée" and len(found["corpus"]["documents"]) == 2
    assert found["shards"] and found["models"][0]["tokens_seen"] == 100


@pytest.mark.parametrize("wanted", [("--owner", "Musee"), ("--document", "gazette/gazette.jsonl#99")])
def test_where_says_that_nothing_is_known(site: Site, wanted: tuple[str, str]) -> None:
    assert "is known here" in say("where", site, *wanted, "--local")
    assert "is known here" not in say("where", site, "--owner", "Musée", "--local")


def test_where_needs_no_gathered_documents(site: Site) -> None:
    make(site, "tokenize")
    before = run("where", site, "--owner", "Musée")
    shutil.rmtree(store(site).root / "raw" / "ci")
    after = run("where", site, "--owner", "Musée")
    assert after == before | {"corpus": {"files": {}, "documents": []}}
    assert after["curated"]["documents"] and after["datasets"] and after["shards"]
    assert "were not looked into" in say("where", site, "--owner", "Musée", "--local")
    shutil.rmtree(store(site).root / "curated" / "ci")
    say("where", site, "--document", "gazette/gazette.jsonl#1", "--local")


def test_where_follows_the_text_to_shards_models_and_exports(site: Site) -> None:
    make(site, "tokenize")
    training, digest = train(site)
    record_export(site, {"path": "/exports/ci.gguf", "format": "gguf-q8_0", "sha256": "ab", "model_digest": digest})
    record_export(site, {"path": "/exports/other.gguf", "format": "gguf-q8_0", "sha256": "cd", "model_digest": "0"})
    found = run("where", site, "--owner", "Musée")
    assert sum(shard["documents"] for shard in found["shards"]) == 2
    assert all(shard["tokens"] > 0 for shard in found["shards"])
    (model,) = found["models"]
    assert model["run"] == training.key[:8] and model["is_current"] and model["tokens_seen"] == 100
    assert model["registered"] == [{"version": 1, "digest": digest}]
    assert [one["path"] for one in found["exports"]] == ["/exports/ci.gguf"]
    assert len(read_exports(site)) == 2
    assert found["checkpoints"] == [{"folder": CHECKPOINT, "is_certain": True}]
    told = say("where", site, "--owner", "Musée", "--local")
    assert digest[:12] in told and "/exports/ci.gguf" in told and "100 tokens taken" in told

    say("withdraw", site, "--owner", "Musée")
    make(site, "curate", "tokenize")
    after = run("where", site, "--owner", "Musée")
    assert after["shards"] == []
    assert [one["is_current"] for one in after["tokenized"]] == [False]
    assert [one["run"] for one in after["models"]] == [model["run"]]  # it still has the text
    assert [one["path"] for one in after["exports"]] == ["/exports/ci.gguf"]
    new_training, new_digest = train(site)
    assert new_digest != digest
    after = run("where", site, "--owner", "Musée")
    assert after["checkpoints"] == []
    assert [(one["run"], one["is_current"]) for one in after["models"]] == [(training.key[:8], False)]
    others = run("where", site, "--owner", "Office des eaux")
    assert {one["run"] for one in others["models"]} == {training.key[:8], new_training.key[:8]}


def test_where_of_a_document_finds_what_was_kept_for_it(site: Site) -> None:
    make(site, "tokenize")
    found = run("where", site, "--document", "gazette/gazette.jsonl#3")
    assert found["curated"]["rejected"] == {"gazette/gazette.jsonl#3": "duplicate"}
    assert found["curated"]["documents"] == ["gazette/gazette.jsonl#2"]
    assert found["owners"] == ["Musée", "Office des eaux"]
    assert sum(shard["documents"] for shard in found["shards"]) == 1
    assert [(one["is_current"], one["is_certain"]) for one in found["datasets"]] == [(True, True)]
    say("withdraw", site, "--document", "gazette/gazette.jsonl#3")
    make(site, "curate")
    found = run("where", site, "--document", "gazette/gazette.jsonl#3")
    assert found["curated"]["rejected"] == {"gazette/gazette.jsonl#3": "withdrawn document"}
    assert found["curated"]["documents"] == []
    assert [(one["is_current"], one["is_certain"]) for one in found["datasets"]] == [(False, False)]
    assert found["datasets"][0]["unknown"] == "nothing is recorded in the catalog yet"
    assert [one["is_certain"] for one in found["tokenized"]] == [False]
    told = say("where", site, "--document", "gazette/gazette.jsonl#3", "--local")
    assert "the document, perhaps former, of " in told and "nothing is recorded in the catalog yet" in told
    assert run("where", site, "--document", "nothing")["datasets"] == []  # no version was made of such a source


def datasets(site: Site, document: str) -> list[tuple[bool, bool, list[str]]]:
    """The versions with the document's text: whether each is the current one and certain, and what was kept for it."""
    found = run("where", site, "--document", document)["datasets"]
    return [(one["is_current"], one["is_certain"], one["kept_as"]) for one in found]


def test_where_of_a_document_is_exact_for_versions_in_the_catalog(site: Site) -> None:
    first, second, third, fourth = (f"gazette/gazette.jsonl#{number}" for number in range(1, 5))
    make(site, "tokenize")
    training, digest = train(site)
    record_export(site, {"path": "/exports/ci.gguf", "format": "gguf-q8_0", "sha256": "ab", "model_digest": digest})
    run("record", site)
    source = site.root.parent / "gazette.jsonl"
    lines = [
        GAZETTE[1] | {"owner": "Régie des eaux"},  # a name that no former version knows
        GAZETTE[2],
        {"id": "4", "text": "Le pont neuf est plus vieux que le pont vieux."},
        {"id": "5", "text": "x"},
    ]
    source.write_text("".join(json.dumps(one) + "\n" for one in lines))  # the first is gone from the source
    say("withdraw", site, "--document", third)
    make(site, "corpus", "curate")
    run("record", site)
    assert datasets(site, first) == [(False, True, [first])]
    assert datasets(site, second) == [(True, True, [second]), (False, True, [second])]
    assert datasets(site, third) == [(False, True, [second])]  # what was kept for it then
    assert datasets(site, fourth) == [(True, True, [fourth])]
    assert datasets(site, "gazette/gazette.jsonl#5") == []  # too short now, not there before
    found = run("where", site, "--document", third)
    assert [(one["run"], one["is_certain"]) for one in found["models"]] == [(training.key[:8], True)]
    assert [one["is_certain"] for one in found["exports"]] == [True]
    told = say("where", site, "--document", third, "--local")
    assert f"the text of the document, kept as {second}, former, of " in told and "perhaps" not in told
    assert "kept as" not in say("where", site, "--owner", "Musée", "--local")
    source.write_text("".join(json.dumps(one) + "\n" for one in lines[:1]))
    make(site, "corpus", "curate")
    assert datasets(site, fourth) == [(False, True, [fourth])]
    rejected = run("query", site, "SELECT reason, count(*) AS n FROM set_aside GROUP BY ALL")
    counts = {one["reason"]: one["n"] for one in rejected["rows"]}
    assert counts == {"duplicate": 1, "too short": 1, "withdrawn document": 1}


def test_where_says_perhaps_where_a_version_was_recorded_without_its_duplicates(site: Site) -> None:
    run("record", site)
    with open_catalog(site, store(site), local=True, make=False) as catalog:
        catalog._catalog.drop_table(("lake", "set_aside"))  # as a version of the kit before there was that table
    say("withdraw", site, "--owner", "Office des eaux")
    make(site, "curate")
    assert datasets(site, "gazette/gazette.jsonl#2") == [(False, True, ["gazette/gazette.jsonl#2"])]
    assert datasets(site, "gazette/gazette.jsonl#3")[-1] == (False, False, [])
    path = store(site).root / "catalog"
    for file in path.rglob("*.parquet"):
        file.unlink()
    (former,) = run("where", site, "--document", "gazette/gazette.jsonl#2")["datasets"]
    assert not former["is_certain"] and "cannot read" in former["unknown"]


def test_what_is_not_clear_or_not_there_is_told(site: Site, tmp_path: Path) -> None:
    for arguments in ((), ("--owner", "A", "--document", "b"), ("--owner", "A", "--date", "yesterday")):
        with pytest.raises(ProfileError, match="what is taken back is not clear"):
            say("withdraw", site, *arguments)
    assert not site.withdrawals_file.exists()
    with pytest.raises(ProfileError, match="not clear"):
        say("where", site, "--local")
    with pytest.raises(ProfileError, match="not clear"):
        say("where", site, "--local", "--owner", " ")
    for wrong in (["--owner", "A\udcff"], ["--owner", "A", "--reason", "caf\udce9"], ["--document", "a/\udcff"]):
        with pytest.raises(ProfileError, match="must be UTF-8"):
            say("withdraw", site, *wrong)
    assert not site.withdrawals_file.exists()
    for option in ("--owner", "--document"):
        with pytest.raises(ProfileError, match="must be UTF-8"):
            say("where", site, "--local", option, "gazette/\udcff")
    assert "no text of Musee is known here" in say("withdraw", site, "--owner", "Musee")
    assert "no document gazete/1 is known here" in say("withdraw", site, "--document", "gazete/1")
    for known in ("gazette/gazette.jsonl#1", "demonstration/en/1"):
        assert "is known here" not in say("withdraw", site, "--document", known)
    site.withdrawals_file.write_text("damaged\n")
    with pytest.raises(SiteError, match="line 1 of"):
        say("withdraw", site, "--owner", "Musée")
    assert site.withdrawals_file.read_text() == "damaged\n"
    empty = init_site(tmp_path / "empty", find_profile(Path("ci")))
    with pytest.raises(StageError, match="stage corpus has not run"):
        say("rights", empty, "--local")
    with pytest.raises(StageError, match="stage corpus has not run"):
        say("where", empty, "--local", "--owner", "Musée")


def test_l13_withdrawing_an_owner_names_those_that_look_like_it(site: Site, tmp_path: Path) -> None:
    """Every invisible spelling is withdrawn; a letter of another alphabet is another name, which is said."""
    spellings = [
        "Musée",
        "Mu\u200bsée",
        "\u202bMusée\u202c",
        "Muse\u0301e",
        "\ufeffMusée",
        "Muѕée",
        "Musee",
    ]  # Cyrillic ѕ
    rows = [
        {"id": str(at), "text": f"Le musée ouvre à {at} heures.", "owner": name} for at, name in enumerate(spellings)
    ]
    (tmp_path / "gazette.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    make(site, "corpus")
    found = run("rights", site)
    assert found["owners"]["Musée"]["documents"] == 5
    assert found["look_alikes"] == [["Musee", "Musée", "Muѕée"]]
    said = " ".join(say("withdraw", site, "--owner", "\u202bMu\u200bsée\u202c").split())
    assert 'stay as they are: "Musee", "Muѕée"' in said and "ѕ U+0455" in said and "no text of" not in said
    assert len(run("rights", site)["set_aside"]["withdrawn owner"]) == 5
    assert "may be used" not in said
    again = say("readmit", site, "--owner", "Musée")
    assert "with it again" in again and run("rights", site)["set_aside"] == {}


def test_l19_what_may_not_be_meant_is_said(site: Site) -> None:
    assert "whole top-level domain" in say("withdraw", site, "--url", "org")
    assert "still to come" in say("withdraw", site, "--url", "press.org", "--date", "2999-01-01")
    assert "yet" not in say("withdraw", site, "--url", "https://press.org/x")


def test_l14_each_document_about_a_version_says_what_was_taken_back_since(site: Site, tmp_path: Path) -> None:
    """The version stays the newest until it is made again, and must not be taken for one without that text."""
    assert "taken back" not in say("manifest", site, "--local")
    say("withdraw", site, "--owner", "Musée")
    for command, *arguments in (
        ("manifest",), ("card", "--out", tmp_path / "card"), ("summary", "--html", tmp_path / "s.html"), ("record",),
        ("show",), ("mix",),
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["lake", command, str(site.root), "--local", *map(str, arguments)])
        said = " ".join(done.output.split())
        assert "2 documents of this version were taken back since it was made" in said, (command, said)
    manifest = json.loads(site.manifest_file.read_bytes())
    assert manifest["sovereign:takenBackSince"] == 2
    assert "were taken back since this version was made" in (tmp_path / "card" / "README.md").read_text()
    assert "taken back since it was made" in (tmp_path / "s.html").read_text()
    make(site, "curate")
    assert "taken back" not in say("manifest", site, "--local")
    assert "sovereign:takenBackSince" not in json.loads(site.manifest_file.read_bytes())


def test_l14_l12_where_nothing_is_left_the_reason_says_what_to_change(tmp_path: Path) -> None:
    text = "La rivière traverse la vieille ville et ses ponts, que les habitants connaissent tous depuis toujours. " * 4
    (tmp_path / "a.txt").write_text(text)
    entry = f"{{name: only, path: {tmp_path / 'a.txt'}, owner: Archives, licence: CC-BY-4.0, language: LANGUAGE}}"
    for language, reason, hint in (
        ("en", "language fr (1 documents)", "`language`"),
        ("fr", "withdrawn owner", "readmit"),
    ):
        corpus = f"corpus:\n  cleaning: {{language: {{}}}}\n  sources: [{entry.replace('LANGUAGE', language)}]\n"
        rest = yaml.safe_load(find_profile(Path("ci")).read_text())
        profile = tmp_path / f"{language}.yaml"
        profile.write_text(corpus + yaml.safe_dump({key: value for key, value in rest.items() if key != "corpus"}))
        made = init_site(tmp_path / f"site-{language}", profile)
        if language == "fr":
            say("withdraw", made, "--owner", "Archives")
        with pytest.raises(StageError, match="no document is left to train on") as caught:
            make(made, "corpus", "curate")
        assert reason in str(caught.value.got) and hint in str(caught.value.hint)
        assert "relax" not in str(caught.value.hint)
