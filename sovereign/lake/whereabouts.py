"""Where the text of an owner or a document went: datasets, token shards, models, by receipts and the stored files.

Receipts name what each stage took in and gave out by digest, so the way from a dataset's version to the models made of
it is known also after all of them were made anew, as long as the site keeps its `receipts/history`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sovereign.errors import StageError, StoreError
from sovereign.files import json_object
from sovereign.lake.dataset import SPLITS
from sovereign.lake.documents import Document, read_rows
from sovereign.owners import owner_name
from sovereign.receipts import Receipt, model_digest
from sovereign.stages import load_stage, read_receipt
from sovereign.store import Store

_STAGES = ("corpus", "curate", "tokenize", "train", "register")
"""Through which text goes, in their order."""


@dataclass(frozen=True)
class Wanted:
    """Whose text is looked for: one of the two."""

    owner: str | None = None
    """As `owner_name` spells it; what was stored before there was that is found too."""
    document: str | None = None

    def is_of(self, document: Document) -> bool:
        """Whether a document's text is theirs."""
        if self.owner is None:
            return document.doc_id == self.document
        return self.owner in map(owner_name, document.owners)


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


@dataclass(frozen=True)
class Held:
    """A version of the dataset that has the wanted text, or may have it."""

    version: Version
    documents: int | None = None
    """Of an owner; None where one document is looked for."""
    kept_as: tuple[str, ...] = ()
    """The documents there that have the text of the one that is looked for."""
    unknown: str = ""
    """Why nobody knows whether the document was in it; empty where it was."""


def contains(version: Version, owner: str) -> int:
    """Number of an owner's documents in a version of a dataset, from its receipt."""
    metrics = version.receipt.metrics
    parts = [metrics.get(split, {}) for split in SPLITS] if version.receipt.stage == "curate" else [metrics]
    return sum(sum(_of_owner(part.get("documents_by_owner", {}), owner)) for part in parts)


def _of_owner(by_name: Mapping[str, Any], owner: str) -> list[Any]:
    return [value for name, value in by_name.items() if owner_name(name) == owner]


def versions_with_owner(versions: dict[str, list[Version]], owner: str) -> list[Held]:
    """The versions of the dataset with text of an owner."""
    counts = [(version, contains(version, owner)) for version in versions["curate"]]
    return [Held(version, documents) for version, documents in counts if documents]


def may_contain(versions: dict[str, list[Version]], version: Version, doc_id: str, owners: set[str]) -> bool:
    """Whether receipts alone leave it open that a document was in a version.

    Its source must have been read for the version and, where the owners are known, one of them must have text in it.
    """
    source = doc_id.partition("/")[0]
    corpora = [one.receipt.metrics for one in versions["corpus"] if version.is_made_of(one)]
    if corpora and not any({source, f"source {source}"} & corpus.keys() for corpus in corpora):
        return False
    return not owners or any(contains(version, owner) for owner in owners)


@dataclass(frozen=True)
class Traced:
    """A result of a stage that has the wanted text, or may have it."""

    version: Version
    is_certain: bool


@dataclass(frozen=True)
class Trace:
    """What was made of the wanted text."""

    shards: list[Traced]
    trainings: list[Traced]
    registrations: list[Traced]


def trace(versions: dict[str, list[Version]], held: list[Held]) -> Trace:
    """Follow the text from versions of the dataset through the receipts."""
    made = [[Traced(one.version, is_certain=not one.unknown) for one in held]]
    for stage in ("tokenize", "train", "register"):
        found = []
        for version in versions[stage]:
            before = [one for one in made[-1] if version.is_made_of(one.version)]
            if before:
                found.append(Traced(version, is_certain=any(one.is_certain for one in before)))
        made.append(found)
    return Trace(*made[1:])


def tokens_seen(store: Store, version: Version, owner: str) -> int | None:
    """Tokens of an owner that a training took, each time counted, from its ledger; None where that is not stored."""
    keys = [key for key in version.receipt.outputs if key.endswith("/ledger.json")]
    if not version.is_current or not keys:
        return None
    ledger = json_object(store.get_bytes(keys[0]), keys[0], StoreError, hint="run the stage `train` again")
    return sum(int(seen["tokens"]) for seen in _of_owner(ledger["by_owner"], owner))


def find_checkpoints(store: Store, dataset: str, shards: list[Traced]) -> list[dict[str, Any]]:
    """Folders of the checkpoints of trainings, finished or not, that took `shards`; of a damaged one nobody knows."""
    found = []
    for key in store.list(f"models/{dataset}/train/checkpoints/"):
        if not key.endswith("/manifest.json"):
            continue
        try:
            inputs = dict(json.loads(store.get_bytes(key))["config"]["inputs"])
        except (ValueError, KeyError, TypeError):
            inputs = None
        taken = [one for one in shards if inputs is None or one.version.receipt.outputs.items() <= inputs.items()]
        if inputs is None or taken:
            is_certain = inputs is not None and any(one.is_certain for one in taken)
            found.append({"folder": key.rpartition("/")[0], "is_certain": is_certain})
    return found


def count_files(found: list[Found]) -> dict[str, int]:
    """Number of documents by file."""
    return dict(sorted(Counter(one.key for one in found).items()))


def stored(versions: dict[str, list[Version]], stage: str) -> list[Version]:
    """The result of `stage` that the store has now; none where it has not run or was erased."""
    return [version for version in versions[stage] if version.is_current]


def current(versions: dict[str, list[Version]], stage: str) -> Version:
    """The stored result of `stage`.

    Raises:
        StageError: there is none.
    """
    for version in stored(versions, stage):
        return version
    raise StageError(f"stage {stage} has not run", hint=f"sovereign stage {stage} PROFILE")
