"""Where the text of an owner or a document went: datasets, token shards, models, by receipts and the stored files.

Receipts name what each stage took in and gave out by digest, so the way from a dataset's version to the models made of
it is known also after all of them were made anew, as long as the site keeps its `receipts/history`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.errors import StageError
from sovereign.lake.dataset import SPLITS
from sovereign.lake.documents import Document, read_rows
from sovereign.receipts import Receipt, model_digest
from sovereign.stages import load_stage, read_receipt
from sovereign.store import Store

_STAGES = ("corpus", "curate", "tokenize", "train", "register")
"""Through which text goes, in their order."""


@dataclass(frozen=True)
class Wanted:
    """Whose text is looked for: one of the two."""

    owner: str | None = None
    document: str | None = None

    def is_of(self, document: Document) -> bool:
        """Whether a document's text is theirs."""
        return document.doc_id == self.document if self.owner is None else self.owner in document.owners


@dataclass(frozen=True)
class Found:
    """A document with the text that was looked for, as it lies in a file of the store."""

    document: Document
    """Without its text."""
    key: str
    reason: str
    """Why it was rejected; empty where it was kept."""


@dataclass(frozen=True)
class Version:
    """One result of a stage."""

    receipt: Receipt
    is_current: bool
    """Whether it is what the store has now."""

    @property
    def name(self) -> str:
        """Digest of its files, as the dataset's manifest names its parents."""
        return model_digest(self.receipt.outputs)

    def is_made_of(self, before: Version) -> bool:
        """Whether all that `before` gave went in here."""
        return before.receipt.outputs.items() <= self.receipt.inputs.items()


def read_versions(store: Store, dataset: str, history: Path) -> dict[str, list[Version]]:
    """All known results by stage, those of the store first, then those of the site's `history`, the newest first.

    Raises:
        StoreError: a receipt is damaged.
    """
    versions: dict[str, list[Version]] = {stage: [] for stage in _STAGES}
    for stage in _STAGES:
        if (receipt := read_receipt(store, load_stage(stage), dataset)) is not None:
            versions[stage].append(Version(receipt, is_current=True))
    past = [Receipt.from_bytes(path.read_bytes()) for path in history.glob("*.json")]
    for receipt in sorted(past, key=lambda receipt: receipt.finished_at, reverse=True):
        known = versions.get(receipt.stage)
        if known is not None and all(one.receipt.key != receipt.key for one in known):
            known.append(Version(receipt, is_current=False))
    return versions


def find_documents(store: Store, version: Version, wanted: Wanted) -> list[Found]:
    """The documents of a dataset in the store that have the wanted text, rejected ones too.

    A duplicate of another document is found with the one that was kept for both.
    """
    found = list(_search(store, version, lambda document: wanted.is_of(document)))
    clusters = {
        one.document.cluster_id for one in found if one.reason.endswith("duplicate") and wanted.document is not None
    }
    if clusters:
        kept = _search(store, version, lambda document: document.cluster_id in clusters)
        known = {one.document.doc_id for one in found}
        found += [one for one in kept if not one.reason and one.document.doc_id not in known]
    return found


def _search(store: Store, version: Version, is_wanted: Callable[[Document], bool]) -> Iterator[Found]:
    with TemporaryDirectory(prefix="sovereign-where-") as folder:
        for key in sorted(version.receipt.outputs):
            if not key.endswith(".parquet"):
                continue
            path = Path(folder, "documents.parquet")
            store.get_file(key, path)
            extra = ["reason"] if key.rpartition("/")[2].startswith("rejected-") else []
            for document, further in read_rows([path], extra, text=False):
                if is_wanted(document):
                    yield Found(document, key, further.get("reason", ""))


def contains(version: Version, owner: str) -> int:
    """Number of an owner's documents in a version of a dataset, from its receipt."""
    metrics = version.receipt.metrics
    parts = [metrics.get(split, {}) for split in SPLITS] if version.receipt.stage == "curate" else [metrics]
    return sum(part.get("documents_by_owner", {}).get(owner, 0) for part in parts)


@dataclass(frozen=True)
class Trace:
    """What was made of the wanted text."""

    datasets: list[tuple[Version, int]]
    """Versions with the number of documents."""
    shards: list[Version]
    trainings: list[Version]
    registrations: list[Version]


def trace(versions: dict[str, list[Version]], owners: set[str], present: bool | None) -> Trace:
    """Follow the text of `owners` through the receipts.

    Args:
        present: whether the text is in the current dataset; None: what the receipt says of the owners counts. Of former
            versions the receipt is all that is left.
    """
    datasets = []
    for version in versions["curate"]:
        count = sum(contains(version, owner) for owner in owners)
        if present is not None and version.is_current:
            count = int(present)
        if count:
            datasets.append((version, count))
    made = [[version for version, _ in datasets]]
    for stage in ("tokenize", "train", "register"):
        made.append([one for one in versions[stage] if any(one.is_made_of(before) for before in made[-1])])
    return Trace(datasets, *made[1:])


def tokens_seen(store: Store, version: Version, owner: str) -> int | None:
    """Tokens of an owner that a training took, each time counted, from its ledger; None where that is not stored."""
    keys = [key for key in version.receipt.outputs if key.endswith("/ledger.json")]
    if not version.is_current or not keys:
        return None
    ledger = json.loads(store.get_bytes(keys[0]))
    return int(ledger["by_owner"].get(owner, {}).get("tokens", 0))


def find_checkpoints(store: Store, dataset: str, shards: list[Version]) -> list[dict[str, Any]]:
    """Folders of the checkpoints of trainings, finished or not, that took `shards`; of a damaged one nobody knows."""
    found = []
    for key in store.list(f"models/{dataset}/train/checkpoints/"):
        if not key.endswith("/manifest.json"):
            continue
        try:
            inputs = dict(json.loads(store.get_bytes(key))["config"]["inputs"])
        except (ValueError, KeyError, TypeError):
            inputs = None
        if inputs is None or any(one.receipt.outputs.items() <= inputs.items() for one in shards):
            found.append({"folder": key.rpartition("/")[0], "is_certain": inputs is not None})
    return found


def count_files(found: list[Found]) -> dict[str, int]:
    """Number of documents by file."""
    return dict(sorted(Counter(one.key for one in found).items()))


def current(versions: dict[str, list[Version]], stage: str) -> Version:
    """The stored result of `stage`.

    Raises:
        StageError: there is none.
    """
    for version in versions[stage]:
        if version.is_current:
            return version
    raise StageError(f"stage {stage} has not run", hint=f"sovereign stage {stage} PROFILE")
