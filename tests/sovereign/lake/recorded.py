"""Curated datasets made of given documents: by the runner of stages, without corpus and cleaning."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sovereign.lake.catalog import Catalog, database_address
from sovereign.lake.catalog_recording import record
from sovereign.lake.catalog_versions import Version
from sovereign.lake.dataset import Dataset
from sovereign.lake.documents import Counts, Document, DocumentWriter
from sovereign.profile import Profile
from sovereign.profile_rights import Owner
from sovereign.receipts import Receipt
from sovereign.stages import Stage, StageContext, StageOutput, run_stage
from sovereign.store import FolderStore, Store

FILES = 3
"""Files of `train`; a document is in the one that its number says."""


def document(number: int, text: str = "", **changes: Any) -> Document:
    """The document with this number; its owner is one of three."""
    made = Document(
        doc_id=f"gazette/{number:03}",
        text=text or f"Notice number {number}.",
        language="fr" if number % 4 == 0 else "en",
        source="gazette",
        owners=(f"Office {number % 3}",),
        licence="CC-BY-4.0" if number % 2 else "CC0-1.0",
        collected_at=None,
        quality=number / 7 or None,
        transforms=("nfc",) if number % 5 == 0 else (),
    )
    return replace(made, **changes)


def profile(name: str) -> Profile:
    text = {"apiVersion": "sovereign/v1", "name": name, "model": {"parameters": 4e5}, "training": {"tokens": 1e5}}
    return Profile.model_validate(text | {"corpus": {"demonstration": {}}})


def publish(
    store: Store,
    folder: Path,
    documents: Sequence[Document],
    *,
    name: str = "test",
    extra: Mapping[str, str] = {},
    rejected: Sequence[tuple[Document, str]] = (),
) -> Receipt:
    """Make `documents` the curated dataset of the store; the first is held out. `extra` are further columns."""

    def run(context: StageContext) -> StageOutput:
        output = StageOutput()
        parts = {"heldout": [documents[:1]], "train": [documents[1:][part::FILES] for part in range(FILES)]}
        for split, files in parts.items():
            counts = Counts()
            for number, part in enumerate(files):
                with DocumentWriter(context.workdir / "made", split, extra=extra, first=number) as writer:
                    for one in part:
                        writer.add(one, **extra)
                        counts.add(one)
                output.files |= {f"curated/{name}/{path.name}": path for path in writer.files}
            output.metrics[split] = counts.metrics()
        if rejected:
            with DocumentWriter(context.workdir / "made", "rejected", extra=["reason"]) as writer:
                for one, reason in rejected:
                    writer.add(one, reason=reason)
            output.files |= {f"curated/{name}/{path.name}": path for path in writer.files}
        return output

    aside = [[asdict(one), reason] for one, reason in rejected]
    config = {"documents": [asdict(one) for one in documents], "extra": dict(extra), "rejected": aside}
    stage = Stage("curate", run, (), lambda *_: config, "curated/{dataset}/")
    return run_stage(stage, profile(name), store, folder / "work", io.StringIO())


class Lake:
    """A store with a catalog; by default both in a folder."""

    def __init__(self, folder: Path, store: Store | None = None, database: str | None = None) -> None:
        self.folder = folder
        self.store = store or FolderStore(folder / "store")
        self.address = database_address(database, folder / "catalog.sqlite")
        folder.mkdir(parents=True, exist_ok=True)

    def publish(self, documents: Sequence[Document], **options: Any) -> Receipt:
        """See `publish`."""
        return publish(self.store, self.folder, documents, **options)

    def open(self) -> Catalog:
        """The catalog."""
        return Catalog.open(self.address, self.store)

    def record(self, name: str = "test", agreed: Sequence[Owner] = ()) -> tuple[Version, bool]:
        """Take the dataset as it is now into the catalog."""
        with self.open() as catalog:
            return record(catalog, Dataset.open(name, self.store, self.folder / f"scratch-{os.getpid()}"), agreed)

    def add(self, documents: Sequence[Document], **options: Any) -> Version:
        """Publish and record."""
        self.publish(documents, **options)
        version, is_new = self.record(options.get("name", "test"))
        assert is_new
        return version

    def documents(self, version: Version | None = None) -> list[dict[str, Any]]:
        """What pyiceberg's own reader finds in a snapshot, by default the newest."""
        with self.open() as catalog:
            scan = catalog.table("documents").scan(snapshot_id=version.snapshot_id if version else None)
            rows: list[dict[str, Any]] = scan.to_arrow().to_pylist()
        return sorted(rows, key=lambda row: str(row["doc_id"]))


def as_rows(documents: Sequence[Document], dataset: str = "test") -> list[dict[str, Any]]:
    """The rows that `documents`, published, are in the table."""
    rows = [
        {"dataset": dataset, "split": "train" if number else "heldout"}
        | asdict(one)
        | {"owners": list(one.owners), "transforms": list(one.transforms)}
        for number, one in enumerate(documents)
    ]
    return sorted(rows, key=lambda row: str(row["doc_id"]))
