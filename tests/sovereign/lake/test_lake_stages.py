"""The stages corpus and curate, from a profile to stored files and receipts."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sovereign.errors import SourceError, StageError
from sovereign.files import sha256_bytes
from sovereign.lake.demonstration import LANGUAGES, make_facts
from sovereign.lake.documents import SCHEMA, Document, read_documents
from sovereign.lake.stages import corpus, curate
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore


def profile(**corpus_section: Any) -> Profile:
    return Profile.model_validate(
        {
            "apiVersion": "sovereign/v1",
            "name": "test",
            "corpus": corpus_section,
            "model": {"parameters": 4e5},
            "training": {"tokens": 1e5},
        }
    )


def source(name: str, path: Path, owner: str) -> dict[str, str]:
    return {"name": name, "path": str(path), "owner": owner, "licence": "CC0-1.0", "language": "en"}


class Lake:
    """A store in which the two stages have run."""

    def __init__(self, wanted: Profile, folder: Path) -> None:
        self.store = FolderStore(folder / "store")
        self.events = io.StringIO()
        self.raw: Receipt = run_stage(corpus, wanted, self.store, folder / "work", self.events)
        self.curated: Receipt = run_stage(curate, wanted, self.store, folder / "work", self.events)

    def documents(self, name: str) -> list[Document]:
        return list(read_documents([self.store.root / name]))

    def questions(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.store.get_bytes(f"{name}/test/questions.jsonl").splitlines()]


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The demonstration country as the profile `demo` has it."""
    return Lake(profile(demonstration={"seed": 1, "facts": 150}), tmp_path_factory.mktemp("lake"))


def test_files_have_the_names_and_columns_of_the_lake(country: Lake) -> None:
    assert list(country.store.list("")) == [
        "curated/test/heldout-00000.parquet",
        "curated/test/questions.jsonl",
        "curated/test/receipt.json",
        "curated/test/rejected-00000.parquet",
        "curated/test/train-00000.parquet",
        "raw/test/documents-00000.parquet",
        "raw/test/questions.jsonl",
        "raw/test/receipt.json",
    ]
    assert pq.read_schema(country.store.root / "curated/test/train-00000.parquet").equals(SCHEMA)
    for receipt in (country.raw, country.curated):
        assert all(sha256_bytes(country.store.get_bytes(key)) == digest for key, digest in receipt.outputs.items())
    assert country.curated.inputs == country.raw.outputs


def test_same_seed_same_bytes_and_other_seed_other_bytes(country: Lake, tmp_path: Path) -> None:
    again = Lake(profile(demonstration={"seed": 1, "facts": 150}), tmp_path / "again")
    assert (again.raw.outputs, again.curated.outputs) == (country.raw.outputs, country.curated.outputs)
    assert again.raw.key == country.raw.key
    other = Lake(profile(demonstration={"seed": 2, "facts": 150}), tmp_path / "other")
    assert not set(other.raw.outputs.values()) & set(country.raw.outputs.values())


def test_every_fact_stays_known_when_documents_are_held_out(country: Lake) -> None:
    """In each language at least three question documents tell it, in ways other than the held-out one."""
    trained = {one.text for one in country.documents("curated/test/train-00000.parquet")}
    for fact in make_facts(profile(demonstration={"seed": 1, "facts": 150}).corpus.demonstration):  # type: ignore[arg-type]
        for language in LANGUAGES:
            asked = [fact.ask(language, phrasing) for phrasing in range(6)]
            assert sum(question.document_text in trained for question in asked) >= 3
            assert fact.ask(language, fact.heldout[language]).document_text not in trained


def test_questions_say_truly_what_was_trained_on(country: Lake) -> None:
    trained = "\n\n".join(one.text for one in country.documents("curated/test/train-00000.parquet"))
    questions = country.questions("curated")
    heldout = [question for question in questions if question["split"] == "heldout"]
    assert len(heldout) == 150 * len(LANGUAGES)
    assert [question for question in heldout if question["question"] in trained] == []
    seen = [question for question in questions if question["split"] == "train"]
    assert 0.9 * len(heldout) < len(seen) <= len(heldout)
    assert [question for question in seen if f"{question['prompt']} {question['answer']}" not in trained] == []
    assert set(questions[0]) == {
        "question_id", "fact_id", "phrasing", "language", "owner", "question", "answer", "prompt", "split",
    }  # fmt: skip


def test_counts_of_the_receipts_add_up(country: Lake) -> None:
    raw, curated = country.raw.metrics, country.curated.metrics
    assert raw["documents"] == len(country.documents("raw/test/documents-00000.parquet"))
    rejected = sum(curated["rejected"].values())
    assert curated["documents_in"] == raw["documents"]
    assert curated["documents_in"] == curated["train"]["documents"] + curated["heldout"]["documents"] + rejected
    for metrics in (raw, curated["train"], curated["heldout"]):
        for kind in ("language", "licence", "owner"):
            assert sum(metrics[f"documents_by_{kind}"].values()) == metrics["documents"]
    assert set(curated["heldout"]["documents_by_language"]) == set(LANGUAGES)
    assert len(raw["documents_by_owner"]) >= 12


def test_sources_are_merged_cleaned_and_accounted_for(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text("The same text in both.\r\n")
        (tmp_path / name / "own.txt").write_text(f"Text of source {name}.")
    (tmp_path / "two" / "short.txt").write_text("no")
    (tmp_path / "two" / "bad.txt").write_bytes(b"\xff")
    sources = [source("one", tmp_path / "one", "A"), source("two", tmp_path / "two", "B")]
    lake = Lake(profile(sources=sources), tmp_path / "lake")
    raw, curated = lake.raw.metrics, lake.curated.metrics
    assert raw["source two"]["skipped"] == {"not UTF-8": 1}
    assert raw["source two"]["found"] == 4
    assert raw["documents"] == 5
    assert set(lake.raw.inputs) == {"source/one", "source/two"}
    assert curated["rejected"] == {"duplicate": 1, "too short": 1}
    kept = lake.documents("curated/test/train-00000.parquet") + lake.documents("curated/test/heldout-00000.parquet")
    same = next(one for one in kept if one.text == "The same text in both.")
    assert same.owners == ("A", "B")
    assert same.transforms == ("control-characters", "whitespace", "owners-merged")
    reasons = pq.read_table(lake.store.root / "curated/test/rejected-00000.parquet").to_pylist()
    assert {(row["doc_id"], row["reason"]) for row in reasons} == {
        ("two/short.txt", "too short"),
        ("two/same.txt", "duplicate"),
    }
    assert "not UTF-8" in lake.events.getvalue()


def test_changed_file_of_a_source_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The first version.")
    wanted = profile(sources=[source("one", tmp_path / "texts", "A")])
    first = Lake(wanted, tmp_path / "lake")
    assert Lake(wanted, tmp_path / "lake").raw == first.raw
    (tmp_path / "texts" / "a.txt").write_text("The second version.")
    assert Lake(wanted, tmp_path / "lake").raw.outputs != first.raw.outputs


def test_question_whose_document_came_from_elsewhere_is_dropped(tmp_path: Path) -> None:
    """A source may hold the very text of a held-out question; then it measures nothing."""
    settings = profile(demonstration={"facts": 10}).corpus.demonstration
    assert settings is not None
    fact = make_facts(settings)[0]
    leaked = fact.ask("en", fact.heldout["en"])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "leak.txt").write_text(leaked.document_text + "\n")
    lake = Lake(
        profile(demonstration={"facts": 10}, sources=[source("one", tmp_path / "texts", "A")]), tmp_path / "lake"
    )
    assert lake.curated.metrics["questions"]["dropped: in the corpus"] == 1
    assert leaked.question_id not in {question["question_id"] for question in lake.questions("curated")}


def test_empty_and_missing_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    wanted = profile(sources=[source("one", tmp_path / "texts", "A")])
    with pytest.raises(SourceError, match=r"source one has no document that can be read\n  got: no file"):
        Lake(wanted, tmp_path / "lake")
    (tmp_path / "texts" / "a.doc").write_text("x")
    with pytest.raises(SourceError, match=r"got: {'unknown kind of file': 1}, first a\.doc"):
        Lake(wanted, tmp_path / "lake")
    with pytest.raises(SourceError, match="one is not there"):
        Lake(profile(sources=[source("one", tmp_path / "nothing", "A")]), tmp_path / "lake")


@pytest.mark.parametrize("encoding", ["cp1256", "gb18030", "shift-jis"])
def test_a_source_in_an_encoding_of_another_language_is_refused_before_anything_is_made(
    tmp_path: Path, encoding: str
) -> None:
    """Also beside text that can be read: it would be missing from the model and nobody would know."""
    text = {"cp1256": "تقع المدينة", "gb18030": "维尔莫拉市", "shift-jis": "ひらがな"}[encoding]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(text.encode(encoding))
    wanted = profile(demonstration={"facts": 10}, sources=[source("gazette", tmp_path / "texts", "A")])
    with pytest.raises(SourceError, match=r"source gazette has no document.*\n  got: {'not UTF-8': 1}, first a\.txt"):
        Lake(wanted, tmp_path / "lake")


def test_rules_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no document is left"):
        Lake(profile(demonstration={"facts": 10}, cleaning={"min_chars": 5000}), tmp_path / "lake")


WORDS = """
the of and to river boat town fee year owner law water bridge miller market council member price day
month harbour mayor school field house wood stone wheel letter clerk court judge farmer fish net rope sail wind
"""
_rng = random.Random(11)
LINES = [f"Article {n}. " + " ".join(_rng.choices(WORDS.split(), k=14)) + "." for n in range(1, 13)]
LAW = "\n".join(LINES)


def write_laws(folder: Path) -> list[dict[str, str]]:
    """Two sources with a law in almost the same words, and one French text in an English source."""
    for name, text in {"one": LAW, "two": LAW.replace("Article 7", "Section 7")}.items():
        (folder / name).mkdir()
        (folder / name / "law.txt").write_text(text)
        (folder / name / "own.txt").write_text(f"Text of source {name}.")
    french = "Quiconque possède un bateau sur le fleuve paie chaque année une redevance à la ville la plus proche. "
    (folder / "two" / "french.txt").write_text(french + french.replace("bateau", "moulin") + french.lower())
    return [source("one", folder / "one", "A"), source("two", folder / "two", "B") | {"licence": "CC-BY-4.0"}]


def test_near_duplicates_keep_every_owner_and_other_languages_are_set_aside(tmp_path: Path) -> None:
    lake = Lake(profile(sources=write_laws(tmp_path)), tmp_path / "lake")
    assert lake.curated.metrics["rejected"] == {"near duplicate": 1, "language fr": 1}
    documents = lake.documents("curated/test/train-00000.parquet") + lake.documents(
        "curated/test/heldout-00000.parquet"
    )
    law = next(one for one in documents if one.text.startswith("Article"))
    assert (law.owners, law.licence, law.transforms) == (("A", "B"), "CC-BY-4.0 AND CC0-1.0", ("owners-merged",))
    rejected = {one.doc_id: one for one in lake.documents("curated/test/rejected-00000.parquet")}
    assert rejected["two/french.txt"].cluster_id is None
    assert [one.cluster_id for one in rejected.values() if "law" in one.doc_id] == [law.cluster_id]
    assert len({one.cluster_id for one in documents}) == len(documents)


def test_order_of_the_sources_decides_nothing_but_the_ids(tmp_path: Path) -> None:
    sources = write_laws(tmp_path)
    texts = []
    for number, some in enumerate([sources, sources[::-1]]):
        lake = Lake(profile(sources=some), tmp_path / f"lake-{number}")
        kept = [one for split in ("train", "heldout") for one in lake.documents(f"curated/test/{split}-00000.parquet")]
        texts.append(sorted((one.text, one.owners, one.cluster_id) for one in kept))
    assert texts[0] == texts[1]


def test_curate_that_was_killed_starts_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    wanted = profile(sources=write_laws(tmp_path))
    lake = Lake(wanted, tmp_path / "lake")
    work = tmp_path / "lake" / "work"
    for name in ("near", "unit", "unit/near"):  # as a killed process leaves them
        (work / name).mkdir(exist_ok=True)
        (work / name / "signatures").write_bytes(b"half a ")
    (work / "unit" / "screened-00000.parquet").write_bytes(b"PAR1 and no end")
    lake.store.delete("curated/test/receipt.json")
    again = Lake(wanted, tmp_path / "lake")
    assert again.curated.outputs == lake.curated.outputs


def test_quality_is_measured_and_personal_data_masked(tmp_path: Path) -> None:
    texts = {"good": LAW, "poor": "\n".join(LINES[:8] * 3), "short": "Write to a.b@example.org today."}
    (tmp_path / "texts").mkdir()
    for name, text in texts.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    lake = Lake(profile(sources=[source("one", tmp_path / "texts", "A")]), tmp_path / "lake")
    metrics = lake.curated.metrics
    assert metrics["rejected"] == {"quality duplicate_lines": 1}
    assert metrics["masked"] == {"email": 1}
    documents = {
        one.doc_id: one
        for split in ("train", "heldout", "rejected")
        for one in lake.documents(f"curated/test/{split}-00000.parquet")
    }
    good, poor, short = (documents[f"one/{name}.txt"].quality for name in texts)
    assert good is not None
    assert poor is not None
    assert 0 < poor < good < 1
    assert short is None
    assert documents["one/short.txt"].text == "Write to <EMAIL> today."
    assert documents["one/short.txt"].transforms == ("masked-email",)


def test_a_changed_evaluation_set_is_looked_for_again(tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    sources = write_laws(tmp_path)
    wanted = profile(sources=sources, cleaning={"evaluation_sets": [{"name": "exam", "path": str(exam)}]})
    with pytest.raises(StageError, match="cannot read evaluation-set/exam"):
        Lake(wanted, tmp_path / "lake")
    exam.write_text(json.dumps({"question": "What do eight words have to do with boats?"}))
    first = Lake(wanted, tmp_path / "lake").curated
    assert first.inputs["evaluation-set/exam"] == sha256_bytes(exam.read_bytes())
    exam.write_text(json.dumps({"question": f"True or false: {LINES[2]}"}))
    second = Lake(wanted, tmp_path / "lake").curated
    assert "contaminated exam" not in first.metrics["rejected"]
    assert second.metrics["rejected"]["contaminated exam"] == 2
    assert second.metrics["documents_in"] == 5


def test_every_part_can_be_switched_off(tmp_path: Path) -> None:
    off = dict.fromkeys(("language", "quality", "near_duplicates", "repeated_lines", "personal_data"))
    lake = Lake(profile(sources=write_laws(tmp_path), cleaning=off), tmp_path / "lake")
    assert lake.curated.metrics["rejected"] == {}
    assert lake.curated.metrics["masked"] == {}
    documents = [one for split in ("train", "heldout") for one in lake.documents(f"curated/test/{split}-00000.parquet")]
    assert len(documents) == lake.curated.metrics["documents_in"] == 5
    assert {one.quality for one in documents} == {None}
    assert {one.owners for one in documents} == {("A",), ("B",)}
