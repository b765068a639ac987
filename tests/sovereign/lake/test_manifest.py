"""The manifest: read by Croissant's own reader, true of the files, the same bytes again."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest
import rdflib
import rfc8785

from sovereign.errors import ProofError, StoreError
from sovereign.files import sha256_bytes
from sovereign.lake import documents, manifest
from sovereign.lake.commitments import DatasetKeys
from sovereign.lake.dataset import Dataset
from sovereign.lake.manifest import NAMESPACE, make_manifest
from sovereign.lake.proofs import read_anchor
from sovereign.lake.stages import corpus, curate
from sovereign.profile import Profile
from sovereign.receipts import model_digest
from sovereign.stages import run_stage
from sovereign.store import FolderStore

AGREED = {"name": "Archive", "consent": "contract of 2026-03-01", "withdrawal": "write to archive@example.org"}


DECLARED = {"legal_basis": "Archives Act, § 4", "terms": "https://example.org/terms", "contact": "data@example.org"}


def profile(texts: Path, **corpus_section: Any) -> Profile:
    """The demonstration country and a source whose files have two owners."""
    source = {"name": "gazette", "path": str(texts), "owner": "Archive", "licence": "CC-BY-4.0", "language": "fr"}
    owners = [AGREED, {"name": "Nobody yet", "terms": "none"}]
    section = {"demonstration": {"facts": 10}, "sources": [source | DECLARED], "owners": owners}
    return Profile.model_validate(
        {
            "apiVersion": "sovereign/v1",
            "name": "test",
            "corpus": section | corpus_section,
            "model": {"parameters": 4e5},
            "training": {"tokens": 1e5},
        }
    )


class Made:
    """A store in which stages have run, and the manifest of its dataset, beside the files."""

    def __init__(self, folder: Path, texts: Path, line: str = "Le journal officiel.") -> None:
        texts.mkdir(parents=True, exist_ok=True)
        lines = [
            {"text": line},
            {"text": "Même texte ici."},
            {"text": "Même texte ici.", "owner": "Musée"},
            {"no": "text"},
        ]
        (texts / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        exam, words = texts.with_name("exam.jsonl"), texts.with_name("words.txt")
        exam.write_text(json.dumps({"text": "Une question de huit mots que personne ne doit apprendre."}))
        words.write_text("interdit\n")
        lists = {"evaluation_sets": [{"name": "exam", "path": str(exam)}]}
        lists |= {"word_lists": [{"name": "words", "path": str(words), "language": "fr"}]}
        self.profile = profile(texts, cleaning=lists)
        self.store = FolderStore(folder / "store")
        for stage in (corpus, curate):
            run_stage(stage, self.profile, self.store, folder / "work", io.StringIO())
        self.scratch = folder / "scratch"
        self.reported: list[tuple[int, int]] = []
        self.dataset = Dataset.open("test", self.store, self.scratch)
        self.bytes = self.make(bytes(32))
        self.path = self.store.root / "curated/test/manifest.json"
        self.path.write_bytes(self.bytes)
        self.content: dict[str, Any] = json.loads(self.bytes)

    def make(self, dataset_key: bytes) -> bytes:
        keys = DatasetKeys.derive(dataset_key, "test", self.dataset.files)
        return make_manifest(self.profile, self.dataset, keys, self.scratch / "leaves.sqlite", self.report)

    def report(self, done: int, total: int) -> None:
        self.reported.append((done, total))

    def rows(self, split: str) -> list[dict[str, Any]]:
        files = sorted((self.store.root / "curated/test").glob(f"{split}-*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With more than one file in a split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_GROUP_ROWS", 2)  # a task, and so a file, has 32 groups at most
        patch.setattr(manifest, "_REPORT_EVERY", 100)
        folder = tmp_path_factory.mktemp("lake")
        return Made(folder, folder / "texts")


# Both warnings are of mlcroissant's and rdflib's own calls.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_croissants_own_reader_takes_it_and_finds_every_document(made: Made) -> None:
    assert len(list(made.path.parent.glob("train-*.parquet"))) > 1
    dataset = mlcroissant.Dataset(jsonld=made.path)
    assert not dataset.metadata.ctx.issues.errors
    assert {one.split(" is recommended")[0].split("/")[-1] for one in dataset.metadata.ctx.issues.warnings} == {
        'citeAs"',
        'datePublished"',
        'version"',
    }
    for split in ("train", "heldout"):
        found = {record[f"{split}/doc_id"].decode(): record for record in dataset.records(split)}
        rows = made.rows(split)
        assert found.keys() == {row["doc_id"] for row in rows}
        for row in rows:
            record = found[row["doc_id"]]
            assert record[f"{split}/text"].decode() == row["text"]
            assert [owner.decode() for owner in record[f"{split}/owners"]] == row["owners"]


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_its_own_terms_are_linked_data_in_no_language(made: Made) -> None:
    graph = rdflib.Graph().parse(data=made.bytes, format="json-ld")
    own = rdflib.Namespace(NAMESPACE)
    owners = {str(name): node for node, name in graph.subject_objects(own.owner)}
    assert owners.keys() == {one["sovereign:owner"] for one in made.content["sovereign:owners"]}
    assert graph.value(owners["Archive"], own.owner) == rdflib.Literal("Archive")  # with a language it would differ
    assert graph.value(owners["Archive"], own.withdrawal) == rdflib.Literal(AGREED["withdrawal"])
    sources = {str(name): node for node, name in graph.subject_objects(own.source)}
    assert graph.value(sources["gazette"], own.legalBasis) == rdflib.Literal(DECLARED["legal_basis"])
    reasons = {graph.value(one, own.reason) for one in graph.objects(sources["gazette"], own.leftOut)}
    assert reasons == {rdflib.Literal("duplicate"), rdflib.Literal("no text")}
    (report,) = graph.objects(None, own.qualityReport)
    assert json.loads(str(report)) == made.content["sovereign:qualityReport"]
    (tree,) = graph.objects(None, own.commitments)
    assert graph.value(tree, own.root) == rdflib.Literal(read_anchor(made.bytes).root)


def test_counts_files_and_parents_are_those_of_the_files(made: Made) -> None:
    rows = {split: made.rows(split) for split in ("train", "heldout")}
    everything = [*rows["train"], *rows["heldout"]]
    content = made.content
    assert content["sovereign:documents"] == len(everything) == read_anchor(made.bytes).size
    assert made.reported == [(done, len(everything)) for done in range(100, len(everything), 100)]
    assert content["sovereign:characters"] == sum(len(row["text"]) for row in everything)
    for one in content["sovereign:languages"]:
        same = [row for row in rows[one["sovereign:split"]] if row["language"] == one["sovereign:language"]]
        assert one["sovereign:documents"] == len(same)
        assert one["sovereign:characters"] == sum(len(row["text"]) for row in same)
    licences = {one["sovereign:licence"]: one["sovereign:documents"] for one in content["sovereign:licences"]}
    assert licences == Counter(row["licence"] for row in everything)
    owners = {one["sovereign:owner"]: one["sovereign:documents"] for one in content["sovereign:owners"]}
    assert owners == Counter(owner for row in everything for owner in row["owners"]) | {"Nobody yet": 0}
    for one in content["sovereign:owners"]:
        assert one["sovereign:documents"] == sum(item["sovereign:documents"] for item in one["sovereign:licences"])
    files = {one["@id"]: one for one in content["distribution"] if one["@type"] == "cr:FileObject"}
    assert files.keys() == {path.name for split in ("train", "heldout") for path in made.path.parent.glob(f"{split}-*")}
    for name, one in files.items():
        assert one["sha256"] == sha256_bytes((made.path.parent / name).read_bytes())
    parents = {one["sovereign:stage"]: one["sovereign:digest"] for one in content["sovereign:parents"]}
    assert parents == {stage: model_digest(receipt.outputs) for stage, receipt in made.dataset.parents.items()}
    assert content["sovereign:qualityReport"]["rejected"] == {"duplicate": 1}


def test_what_was_agreed_stands_with_the_owner_and_nothing_is_made_up(made: Made) -> None:
    owners = {one["sovereign:owner"]: one for one in made.content["sovereign:owners"]}
    archive = owners["Archive"]
    assert (archive["sovereign:consent"], archive["sovereign:withdrawal"]) == (AGREED["consent"], AGREED["withdrawal"])
    assert "sovereign:terms" not in archive
    assert not {"sovereign:consent", "sovereign:terms", "sovereign:withdrawal"} & owners["Musée"].keys()
    assert owners["Musée"]["sovereign:documents"] == 1


def by_source(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of the manifest's sources, without the prefix of its terms."""
    return {
        one["sovereign:source"]: {key.removeprefix("sovereign:"): value for key, value in one.items()}
        for one in content["sovereign:sources"]
    }


def left_out(source: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Numbers by stage and reason."""
    names = ("stage", "reason", "records")
    rows = [tuple(one[f"sovereign:{name}"] for name in names) for one in source["leftOut"]]
    return {(stage, reason): number for stage, reason, number in rows}


def test_each_source_stands_there_with_what_was_declared_and_left_out(made: Made) -> None:
    sources = by_source(made.content)
    assert sources.keys() == {"demonstration", "gazette"}
    gazette, generated = sources["gazette"], sources["demonstration"]
    said = {key: gazette[key] for key in ("legalBasis", "terms", "contact")}
    assert said == dict(zip(said, DECLARED.values(), strict=True))
    assert (gazette["declaredOwner"], gazette["declaredLicence"]) == ("Archive", "CC-BY-4.0")
    assert (gazette["optOuts"], gazette["isGenerated"], generated["isGenerated"]) == ("honour", False, True)
    assert left_out(gazette) == {("corpus", "no text"): 1, ("curate", "duplicate"): 1}
    assert generated["leftOut"] == [] and "legalBasis" not in generated
    rows = [row for split in ("train", "heldout") for row in made.rows(split)]
    for name, source in sources.items():
        own = [row for row in rows if row["source"] == name]
        assert (source["documents"], source["characters"]) == (len(own), sum(len(row["text"]) for row in own))
    assert str(made.store.root.parent) not in made.bytes.decode()
    assert list(made.scratch.glob("*.parquet")) == []


def test_what_was_taken_back_is_counted_by_source_and_reason(tmp_path: Path) -> None:
    """Of two sources; who took it back is not said."""
    made = Made(tmp_path, tmp_path / "texts")
    (tmp_path / "letters").mkdir()
    for number in range(3):
        (tmp_path / "letters" / f"{number}.txt").write_text(f"This is letter number {number} of mine.")
    letters = {
        "name": "letters",
        "path": str(tmp_path / "letters"),
        "owner": "Ann",
        "licence": "CC0-1.0",
        "language": "en",
    }
    sources = [*made.profile.model_dump()["corpus"]["sources"], letters]
    withdrawn = [{"date": "2026-05-01", "owner": "Musée"}, {"date": "2026-05-02", "document": "letters/1.txt"}]
    made.profile = profile(tmp_path / "texts", sources=sources, rights={"withdrawn": withdrawn})
    for stage in (corpus, curate):
        run_stage(stage, made.profile, made.store, tmp_path / "work", io.StringIO())
    made.dataset = Dataset.open("test", made.store, made.scratch)
    content = json.loads(made.make(bytes(32)))
    found = by_source(content)
    assert left_out(found["gazette"]) == {("corpus", "no text"): 1, ("curate", "withdrawn owner"): 1}
    assert left_out(found["letters"]) == {("curate", "withdrawn document"): 1}
    assert found["letters"]["documents"] == 2 and "legalBasis" not in found["letters"]
    assert "Musée" not in {one["sovereign:owner"] for one in content["sovereign:owners"]}


def test_a_corpus_that_was_read_again_since_is_no_parent(tmp_path: Path) -> None:
    """What it says of its sources is not true of this dataset."""
    made = Made(tmp_path, tmp_path / "texts")
    assert made.dataset.parents.keys() == {"corpus", "curate"}
    (tmp_path / "texts" / "b.txt").write_text("Un texte de plus pour la suite.")
    run_stage(corpus, made.profile, made.store, tmp_path / "work", io.StringIO())
    made.dataset = Dataset.open("test", made.store, made.scratch)
    assert made.dataset.parents.keys() == {"curate"}
    found = by_source(json.loads(made.make(bytes(32))))
    assert found["gazette"]["documents"] == 2 and "legalBasis" not in found["gazette"]


def test_same_input_same_bytes_and_other_input_other_root(made: Made, tmp_path: Path) -> None:
    """Also where the stages ran on another machine, with the corpus in another folder, at another time."""
    first, again = Made(tmp_path / "a", tmp_path / "texts"), Made(tmp_path / "b", tmp_path / "elsewhere" / "gazette")
    assert first.dataset.parents["corpus"].key != again.dataset.parents["corpus"].key
    other = Made(tmp_path / "c", tmp_path / "texts", "Un autre journal.")
    elsewhere = {"started_at": "2031-01-01T00:00:00+00:00", "seconds": 9.0, "made_by": "someone@else"}
    receipts = {stage: one.model_copy(update=elsewhere) for stage, one in again.dataset.parents.items()}
    again.dataset = replace(again.dataset, parents=receipts)
    assert again.make(bytes(32)) == first.bytes
    assert rfc8785.dumps(first.content) == first.bytes
    assert first.make(bytes(32)) == first.bytes
    roots = {read_anchor(one).root for one in (first.bytes, other.bytes, first.make(b"\1" * 32))}
    assert len(roots) == 3


def test_documents_are_found_by_place_and_name(made: Made) -> None:
    entries = list(made.dataset.entries())
    assert [entry.document.doc_id for entry in entries] == [
        row["doc_id"] for split in ("heldout", "train") for row in made.rows(split)
    ]
    assert list(made.scratch.glob("*.parquet")) == []
    for entry in itertools.islice(entries, 0, None, 37):
        assert made.dataset.entry(entry.file, entry.row) == entry
        assert made.dataset.find(entry.document.doc_id) == entry
    with pytest.raises(ProofError, match="no such document"):
        made.dataset.find("nothing")


def test_damaged_files_and_datasets_that_are_not_there_are_refused(tmp_path: Path) -> None:
    made = Made(tmp_path, tmp_path / "texts")
    path = made.path.parent / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"train-00000\.parquet is not what its receipt says"):
        made.make(bytes(32))
    with pytest.raises(ProofError, match="dataset other is not made yet"):
        Dataset.open("other", made.store, tmp_path)
