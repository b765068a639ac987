"""A curated dataset as its receipt names it: files, documents in order, one document, the leaves of its tree."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from sovereign.errors import ProofError
from sovereign.lake.commitments import DatasetKeys
from sovereign.lake.documents import Document, read_documents, read_rows
from sovereign.lake.leaves import Row, build_leaves
from sovereign.lake.rights import RightsRules, read_claims
from sovereign.plan import plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt, config_digest
from sovereign.stages import load_stage, read_receipt
from sovereign.store import Store, fetch_checked

SPLITS = ("heldout", "train")
"""Whose documents a dataset has; rejected ones are not in it."""
_REJECTED = ("rejected",)


@dataclass(frozen=True)
class Entry:
    """A document with its place in the dataset."""

    document: Document
    file: int
    """Which file, from 0, in the order of their names."""
    row: int
    """Which row of the file, from 0."""
    split: str


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset in a store."""

    name: str
    store: Store
    folder: Path
    """Scratch; one Parquet file at a time lies here."""
    parents: Mapping[str, Receipt]
    """Receipts of the stages that it came from; without that of `corpus` where it has run again since."""

    @classmethod
    def open(cls, name: str, store: Store, folder: Path) -> Self:
        """The dataset that stage `curate` made last.

        Raises:
            ProofError: it has not run.
        """
        stages = {stage: read_receipt(store, load_stage(stage), name) for stage in ("corpus", "curate")}
        parents = {stage: receipt for stage, receipt in stages.items() if receipt is not None}
        if "curate" not in parents:
            raise ProofError(f"dataset {name} is not made yet", hint="sovereign stage curate PROFILE")
        if "corpus" in parents and not parents["corpus"].outputs.items() <= parents["curate"].inputs.items():
            del parents["corpus"]
        return cls(name, store, folder, parents)

    @property
    def prefix(self) -> str:
        """Where its files and its manifest are in the store."""
        return f"curated/{self.name}/"

    @cached_property
    def files(self) -> dict[str, str]:
        """Hex SHA-256 of its Parquet files by name, in the order of names."""
        return self._files_of(SPLITS)

    @property
    def rejected_files(self) -> list[str]:
        """Names of the files with what stage `curate` set aside."""
        return list(self._files_of(_REJECTED))

    def _files_of(self, kinds: Container[str]) -> dict[str, str]:
        outputs = self.parents["curate"].outputs
        names = {key.removeprefix(self.prefix): digest for key, digest in sorted(outputs.items())}
        return {name: digest for name, digest in names.items() if name.endswith(".parquet") and split_of(name) in kinds}

    def is_made_by(self, profile: Profile) -> bool:
        """Whether it was made with the profile's settings of stage `curate` as they are now.

        Raises:
            PlanError: what the profile asks for cannot fit.
        """
        return (
            config_digest(load_stage("curate").config(profile, plan(profile))) == self.parents["curate"].config_digest
        )

    def count_taken_back(self, profile: Profile) -> int:
        """Documents that were taken back since this version was made; the next one is made without them.

        Raises:
            StoreError: see `fetch`.
        """
        if self.is_made_by(profile):
            return 0
        rules, count = RightsRules(profile.corpus), 0
        for name in self.files:
            path = self.fetch(name)
            count += sum(bool(rules.taken_back(document)) for document in read_claims([path]))
            path.unlink()
        return count

    def fetch(self, name: str) -> Path:
        """Fetch one of the files that stage `curate` made.

        Raises:
            StoreError: it is missing, or not what the receipt says.
        """
        key = self.prefix + name
        return fetch_checked(self.store, key, self.folder / name, self.parents["curate"].outputs[key])

    def entries(self, splits: Container[str] = SPLITS) -> Iterator[Entry]:
        """All documents, or those of some splits; each file is fetched and removed again.

        Raises:
            StoreError: see `fetch`.
        """
        for number, name in enumerate(self.files):
            if split_of(name) not in splits:
                continue
            path = self.fetch(name)
            for row, document in enumerate(read_documents([path])):
                yield Entry(document, number, row, split_of(name))
            path.unlink()

    def rejected(self, *, text: bool = False) -> Iterator[tuple[Document, str]]:
        """Documents that were set aside, each with the reason; their texts are read where `text` says so.

        Raises:
            StoreError: see `fetch`.
        """
        for name in self.rejected_files:
            path = self.fetch(name)
            for document, further in read_rows([path], ["reason"], text=text):
                yield document, further["reason"]
            path.unlink()

    def entry(self, file: int, row: int) -> Entry:
        """One document.

        Raises:
            StoreError: see `fetch`.
        """
        name = list(self.files)[file]
        documents = enumerate(read_documents([self.fetch(name)]))
        return next(Entry(document, file, row, split_of(name)) for number, document in documents if number == row)

    def find(self, doc_id: str) -> Entry:
        """The document with this identifier.

        Raises:
            ProofError: there is none.
        """
        for entry in self.entries():
            if entry.document.doc_id == doc_id:
                return entry
        raise ProofError("no such document in the dataset", got=doc_id, hint="name its text instead, with --text")

    def build_leaves(self, path: Path, keys: DatasetKeys, entries: Iterator[Entry] | None = None) -> None:
        """Write the leaves of its tree, from `entries` where they are read for something else too."""
        build_leaves(
            path,
            (Row(keys.leaf(entry.document, entry.split), entry.file, entry.row) for entry in entries or self.entries()),
        )


def split_of(name: str) -> str:
    """The split of the file `name`: what stands before its number."""
    return name.rpartition("-")[0]
