"""A dataset with its manifest, made by the stages from sources with awkward names, to write documents about."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sovereign.files import sha256_file
from sovereign.lake.commitments import DatasetKeys
from sovereign.lake.dataset import Dataset
from sovereign.lake.facts import Facts, gather_facts
from sovereign.lake.manifest import make_manifest
from sovereign.lake.stages import corpus, curate
from sovereign.profile import Profile
from sovereign.stages import run_stage
from sovereign.store import FolderStore

HOSTILE = "<script>alert(1)</script> | [x](javascript:alert(2)) $\\frac{1}{2}$"
ARABIC = "الأرشيف الوطني"
LAW = "Article {n}. A person who keeps a boat on the river pays a fee to the nearest town each year, number {n}."


def gazette() -> list[dict[str, Any]]:
    """Lines of a source: owners and licences of their own, dates, duplicates, personal data, a short text."""
    lines: list[dict[str, Any]] = [
        {"text": LAW.format(n=number), "collected_at": f"20{10 + number % 3}-0{1 + number % 9}-01"}
        for number in range(60)
    ]
    lines += [{"text": "A text of the archive, as it was given.", "owner": owner} for owner in (HOSTILE, ARABIC)]
    lines += [{"text": "Under a licence of its own it stands here.", "licence": "CC0-1.0", "collected_at": "last year"}]
    lines += [{"text": "Write to clerk@example.org or to mayor@example.org.", "collected_at": "2021"}]
    lines += [{"text": "short"}, {"no": "text"}]
    return lines


def profile(folder: Path, publication: Mapping[str, Any] | None = None, **corpus_section: Any) -> Profile:
    """The demonstration country and two sources in `folder`."""
    declared = {"owner": "Archive", "licence": "CC-BY-4.0", "language": "en"}
    sources = [
        {"name": "gazette", "path": str(folder / "gazette"), "legal_basis": "Archives Act, section 4", **declared},
        {"name": "letters", "path": str(folder / "letters"), **declared},
    ]
    return Profile.model_validate(
        {
            "apiVersion": "sovereign/v1",
            "name": "test",
            "corpus": {"demonstration": {"facts": 10}, "sources": sources} | corpus_section,
            "model": {"parameters": 4e5},
            "training": {"tokens": 1e5},
            "publication": dict(publication or {}),
        }
    )


class Published:
    """A store with the curated dataset and its manifest."""

    def __init__(self, folder: Path, publication: Mapping[str, Any] | None = None, **corpus_section: Any) -> None:
        for name in ("gazette", "letters"):
            (folder / name).mkdir(parents=True)
        lines = "".join(json.dumps(line) + "\n" for line in gazette())
        (folder / "gazette" / "a.jsonl").write_text(lines)
        for number in range(40):
            (folder / "letters" / f"{number}.txt").write_text(
                f"Dear neighbour, this is letter number {number} of mine."
            )
        self.folder = folder
        self.profile = profile(folder, publication, **corpus_section)
        self.store = FolderStore(folder / "store")
        for stage in (corpus, curate):
            run_stage(stage, self.profile, self.store, folder / "work", io.StringIO())
        self.describe()

    @property
    def dataset(self) -> Dataset:
        return Dataset.open("test", self.store, self.folder / "scratch")

    def describe(self) -> None:
        """Make the manifest."""
        dataset = self.dataset
        keys = DatasetKeys.derive(bytes(32), "test", dataset.files)
        manifest = make_manifest(self.profile, dataset, keys, self.folder / "leaves.sqlite")
        self.store.put_bytes("curated/test/manifest.json", manifest)

    def facts(self, wanted: Profile | None = None) -> Facts:
        return gather_facts(wanted or self.profile, self.dataset)

    def rows(self, *splits: str) -> list[dict[str, Any]]:
        """The documents as the Parquet files have them."""
        files = [
            path for split in splits for path in sorted((self.store.root / "curated/test").glob(f"{split}-*.parquet"))
        ]
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def add_addresses(self, address: Mapping[str, str]) -> None:
        """Give documents an address, by `doc_id`, as a stage that keeps addresses would."""
        outputs = dict(self.dataset.parents["curate"].outputs)
        for name in self.dataset.files:
            path = self.store.root / "curated/test" / name
            table = pq.read_table(path)
            if "url" in table.column_names:
                table = table.drop_columns(["url"])
            urls = [address.get(str(doc_id)) for doc_id in table.column("doc_id").to_pylist()]
            pq.write_table(table.append_column("url", pa.array(urls, pa.string())), path)
            outputs[f"curated/test/{name}"] = sha256_file(path)
        receipt = self.dataset.parents["curate"].model_copy(update={"outputs": outputs})
        self.store.put_bytes("curated/test/receipt.json", receipt.to_bytes())
        self.describe()
