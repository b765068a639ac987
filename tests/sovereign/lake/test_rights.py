"""Rights in stage `curate`: the gate before training data is made, exclusion, withdrawals, later opt-outs."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sovereign.errors import StageError
from sovereign.lake.dataset import Dataset
from sovereign.lake.documents import SCHEMA, Document, DocumentWriter, read_documents, read_rows
from sovereign.lake.rights import read_claims
from sovereign.lake.stages import corpus, curate
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.lake.test_lake_stages import profile, source

DOCUMENTS: list[dict[str, str]] = [
    {"id": "a", "text": "The archive opens at nine in the morning.", "owner": "Archive", "licence": "CC-BY-4.0"},
    {"id": "b", "text": "The river is seven leagues long.", "owner": "River Office", "licence": "CC0-1.0"},
    {"id": "c", "text": "The mint strikes coins of copper.", "owner": "Mint", "licence": "CC-BY-NC-4.0"},
    {"id": "d", "text": "The mint strikes coins of silver.", "owner": "Mint", "licence": "CC-BY-4.0 OR MIT"},
    {"id": "e", "text": "The press prints at night.", "owner": "Press", "licence": "MIT", "url": "https://press.org/e"},
    {"id": "f", "text": "The river is seven leagues long.", "owner": "Press", "licence": "MIT", "url": "https://www.press.org/f"},
]  # fmt: skip
ALL = {"a", "b", "c", "d", "e"}


class Site:
    """A corpus, curated under changing rights."""

    def __init__(self, folder: Path, documents: list[dict[str, str]] | None = None) -> None:
        self.folder, self.store = folder, FolderStore(folder / "store")
        self.path = folder / "texts.jsonl"
        self.write(DOCUMENTS if documents is None else documents)

    def write(self, documents: list[dict[str, str]]) -> None:
        self.path.write_text("".join(json.dumps(one) + "\n" for one in documents))

    def run(self, rights: dict[str, Any] | None = None, **more: Any) -> Receipt:
        wanted = profile(sources=[source("web", self.path, "Archive")], rights=rights or {}, **more)
        for stage in (corpus, curate):
            receipt = run_stage(stage, wanted, self.store, self.folder / "work", io.StringIO())
        metrics = receipt.metrics
        kept = metrics["train"]["documents"] + metrics["heldout"]["documents"]
        assert metrics["documents_in"] == kept + sum(metrics["rejected"].values())
        return receipt

    def kept(self) -> dict[str, Document]:
        dataset = Dataset.open("test", self.store, self.folder / "scratch")
        return {one.document.doc_id.rpartition("#")[2]: one.document for one in dataset.entries()}

    def rejected(self) -> dict[str, tuple[str, str]]:
        path = self.store.root / "curated/test/rejected-00000.parquet"
        rows = read_rows([path], ["reason"])
        return {one.doc_id.rpartition("#")[2]: (extra["reason"], one.text) for one, extra in rows}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_without_a_list_all_licences_are_taken(site: Site) -> None:
    receipt = site.run()
    assert site.kept().keys() == ALL
    assert site.kept()["b"].owners == ("Press", "River Office")
    assert receipt.metrics["unregistered_owners"] == {"Archive": 1, "Mint": 2, "Press": 2, "River Office": 1}


def test_anything_else_than_the_list_is_refused_by_name_before_any_text_is_read(site: Site) -> None:
    with pytest.raises(StageError) as caught:
        site.run({"trainable": ["CC-BY-4.0", "CC0-1.0"]})
    message = str(caught.value)
    assert "3 documents may not be trained on: web/texts.jsonl#c, web/texts.jsonl#e, web/texts.jsonl#f" in message
    assert "licence not trainable: CC-BY-NC-4.0 (1 documents); licence not trainable: MIT (2 documents)" in message
    assert "lake rights" in message
    assert not [key for key in site.store.list("curated/") if "/units/" not in key]
    assert not (site.folder / "work" / "screened").exists()


def test_only_the_first_are_named(tmp_path: Path) -> None:
    many = [{"id": f"x{number:03}", "text": f"Text {number} of many.", "licence": "MIT"} for number in range(100)]
    with pytest.raises(StageError, match=r"100 documents .*#x004 and 95 more"):
        Site(tmp_path, many).run({"trainable": ["CC0-1.0"]})


def test_they_can_be_left_out_on_purpose(site: Site) -> None:
    receipt = site.run({"trainable": ["CC-BY-4.0", "CC0-1.0"], "on_other": "exclude"})
    assert receipt.metrics["rejected"] == {"licence not trainable": 3}
    assert receipt.metrics["trainable"] == ["CC-BY-4.0", "CC0-1.0"]
    assert site.kept().keys() == {"a", "b", "d"}
    assert site.kept()["b"].owners == ("River Office",)
    assert site.rejected() == dict.fromkeys("cef", ("licence not trainable", ""))


def test_a_wider_list_makes_the_stage_run_again_without_reading_the_source(site: Site) -> None:
    site.run({"trainable": ["CC-BY-4.0", "CC0-1.0"], "on_other": "exclude"})
    raw = site.store.get_bytes("raw/test/receipt.json")
    site.run({"trainable": ["CC-BY-4.0", "CC0-1.0", "MIT", "CC-BY-NC-4.0"]})
    assert site.kept().keys() == ALL
    assert site.store.get_bytes("raw/test/receipt.json") == raw


def test_registered_owners_only(site: Site) -> None:
    owners = [{"name": "Archive", "kind": "institution"}, {"name": "Mint"}, {"name": "River Office"}]
    with pytest.raises(StageError, match=r"owner not registered: Press \(2 documents\)"):
        site.run({"registered_owners_only": True}, owners=owners)
    receipt = site.run({"registered_owners_only": True, "on_other": "exclude"}, owners=owners)
    assert receipt.metrics["rejected"] == {"owner not registered": 2}
    assert receipt.metrics["unregistered_owners"] == {"Press": 2}
    site.run({"registered_owners_only": True}, owners=[*owners, {"name": "Press"}])
    assert site.kept().keys() == ALL


def test_the_demonstration_s_owners_need_no_entry(tmp_path: Path) -> None:
    wanted = profile(demonstration={"facts": 10}, rights={"registered_owners_only": True})
    for stage in (corpus, curate):
        receipt = run_stage(stage, wanted, FolderStore(tmp_path / "store"), tmp_path / "work", io.StringIO())
    assert receipt.metrics["unregistered_owners"] == {}


def test_a_withdrawn_owner_is_out_and_the_copies_of_others_stay(site: Site) -> None:
    before = site.run()
    assert site.kept()["b"].owners == ("Press", "River Office")
    assert site.kept()["b"].licence == "CC0-1.0 AND MIT"
    after = site.run({"withdrawn": [{"date": "2026-05-01", "owner": "Press"}]})
    assert after.metrics["rejected"] == {"withdrawn owner": 2}
    assert site.rejected() == {"e": ("withdrawn owner", ""), "f": ("withdrawn owner", "")}
    assert site.kept().keys() == {"a", "b", "c", "d"}
    assert (site.kept()["b"].owners, site.kept()["b"].licence) == (("River Office",), "CC0-1.0")
    assert before.outputs["curated/test/train-00000.parquet"] != after.outputs["curated/test/train-00000.parquet"]
    again = site.run({"withdrawn": [{"date": "2026-05-01", "owner": "River Office"}]})
    assert again.metrics["rejected"] == {"withdrawn owner": 1}
    assert (site.kept()["f"].owners, site.kept()["f"].licence) == (("Press",), "MIT")


def test_an_owner_is_withdrawn_however_the_name_is_spelled(tmp_path: Path) -> None:
    spelled = unicodedata.normalize("NFD", " Bibliothèque  nationale")
    site = Site(tmp_path, [{**DOCUMENTS[0], "owner": spelled}, DOCUMENTS[1]])
    site.run()
    assert site.kept()["a"].owners == ("Bibliothèque nationale",)
    site.run({"withdrawn": [{"date": "2026-05-01", "owner": "Bibliothèque nationale"}]})
    assert site.kept().keys() == {"b"}


def test_a_withdrawn_document_is_out_and_its_duplicate_stays(site: Site) -> None:
    site.run({"withdrawn": [{"date": "2026-05-01", "document": "web/texts.jsonl#b"}]})
    assert site.rejected() == {"b": ("withdrawn document", "")}
    assert site.kept()["f"].owners == ("Press",)


def test_near_duplicates_of_a_withdrawn_owner_leave_the_cluster(tmp_path: Path) -> None:
    text = " ".join(f"The ordinance number {number} is about streets and bridges of the town." for number in range(30))
    one = {"id": "one", "text": text, "owner": "A"}
    site = Site(tmp_path, [one, {"id": "two", "text": f"{text} The end.", "owner": "B"}])
    cleaning = {"quality": None}
    site.run(cleaning=cleaning)
    assert [one.owners for one in site.kept().values()] == [("A", "B")]
    site.run({"withdrawn": [{"date": "2026-05-01", "owner": "A"}]}, cleaning=cleaning)
    assert [(name, one.owners) for name, one in site.kept().items()] == [("two", ("B",))]


def test_later_opt_outs_by_host_prefix_and_file(site: Site, tmp_path: Path) -> None:
    site.run({"withdrawn": [{"date": "2026-05-01", "url": "https://press.org/e"}]})
    assert site.rejected()["e"] == ("opted out", "")
    assert site.kept()["b"].owners == ("Press", "River Office")
    path = tmp_path / "opt-outs.jsonl"
    path.write_text('{"date": "2026-05-01", "url": "press.org"}\n\n{"date": "2026-05-02", "owner": "Mint"}\n')
    rights = {"opt_outs": {"file": str(path)}}
    first = site.run(rights)
    assert {name: reason for name, (reason, _) in site.rejected().items()} == {
        "c": "withdrawn owner", "d": "withdrawn owner", "e": "opted out", "f": "opted out",
    }  # fmt: skip
    path.write_text('{"date": "2026-05-01", "url": "press.org"}\n')
    assert site.run(rights).inputs["opt-outs/file"] != first.inputs["opt-outs/file"]
    assert "c" in site.kept()
    path.write_text('{"date": "2026-05-01"}\n')
    with pytest.raises(StageError, match=r"line 1 of .*opt-outs.jsonl is no withdrawal"):
        site.run(rights)
    path.unlink()
    with pytest.raises(StageError, match="cannot read opt-outs/file"):
        site.run(rights)


def test_what_was_taken_back_is_not_held_against_the_run(site: Site) -> None:
    site.run({
        "trainable": ["CC-BY-4.0", "CC0-1.0"],
        "withdrawn": [
            {"date": "2026-05-01", "owner": "Press"},
            {"date": "2026-05-01", "document": "web/texts.jsonl#c"},
        ],
    })  # fmt: skip
    assert site.kept().keys() == {"a", "b", "d"}


def test_questions_about_facts_of_a_withdrawn_owner_are_dropped(tmp_path: Path) -> None:
    found = {}
    for name, withdrawn in (("all", []), ("less", [{"date": "2026-05-01", "owner": "National Archive of Tamurel"}])):
        wanted = profile(demonstration={"seed": 1, "facts": 40}, rights={"withdrawn": withdrawn})
        store = FolderStore(tmp_path / name)
        for stage in (corpus, curate):
            receipt = run_stage(stage, wanted, store, tmp_path / "work" / name, io.StringIO())
        questions = [json.loads(line) for line in store.get_bytes("curated/test/questions.jsonl").splitlines()]
        found[name] = ({one["owner"] for one in questions}, receipt.metrics)
    assert found["all"][0] - found["less"][0] == {"National Archive of Tamurel"}
    assert found["less"][1]["questions"]["dropped: withdrawn owner"] > 0
    assert "National Archive of Tamurel" not in found["less"][1]["train"]["documents_by_owner"]


def test_nothing_left_is_an_error(site: Site) -> None:
    owners = [{"date": "2026-05-01", "owner": one} for one in ("Archive", "Mint", "Press", "River Office")]
    with pytest.raises(StageError, match="no document is left"):
        site.run({"withdrawn": owners})


def test_claims_are_documents_without_text_and_files_of_before_have_no_url(tmp_path: Path) -> None:
    document = Document("s/1", "Some text.", "en", "s", ("A",), "MIT", None, url="https://a.org/")
    with DocumentWriter(tmp_path, "documents") as writer:
        writer.add(document)
    assert [one.text for one in read_claims(writer.files)] == [""]
    assert list(read_documents(writer.files)) == [document]
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(writer.files[0]).drop_columns(["url"]), old)
    assert pq.read_schema(old).names == SCHEMA.names[:-1]
    assert [one.url for one in read_documents([old])] == [None]
