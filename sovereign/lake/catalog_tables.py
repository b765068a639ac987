"""Tables of the catalog: their columns, and the rows that a recorded version gives to those beside `documents`.

These are only added to: each row names the dataset and the version that it is about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from sovereign.lake.documents import SCHEMA
from sovereign.profile_rights import Owner
from sovereign.receipts import Receipt

DOCUMENTS = "documents"
SET_ASIDE = "set_aside"
"""Documents that stage `curate` rejected, without all else that is known of them."""
PARTITION = ("dataset", "split")
"""Columns that the data files of `documents` have not: each file is of one dataset and split."""
DOCUMENTS_SCHEMA = pa.schema([*(pa.field(name, pa.string()) for name in PARTITION), *SCHEMA])

_TIME = pa.timestamp("us", tz="UTC")
_OF: list[pa.Field[Any]] = [pa.field("dataset", pa.string()), pa.field("version", pa.string())]
_LANGUAGE = pa.struct(
    [
        pa.field("language", pa.string()),
        pa.field("split", pa.string()),
        pa.field("documents", pa.int64()),
        pa.field("characters", pa.int64()),
    ]
)

TABLES: Mapping[str, pa.Schema] = {
    "datasets": pa.schema(
        [
            *_OF,
            pa.field("documents", pa.int64()),
            pa.field("characters", pa.int64()),
            pa.field("languages", pa.list_(_LANGUAGE)),
            pa.field("receipt_key", pa.string()),
            pa.field("made_at", _TIME),
            pa.field("made_by", pa.string()),
            pa.field("code_version", pa.string()),
            pa.field("code_digest", pa.string()),
            pa.field("environment_digest", pa.string()),
            pa.field("snapshot_id", pa.int64()),
        ]
    ),
    "owners": pa.schema(
        [
            *_OF,
            pa.field("owner", pa.string()),
            pa.field("documents", pa.int64()),
            pa.field("consent", pa.string()),
            pa.field("terms", pa.string()),
            pa.field("withdrawal", pa.string()),
        ]
    ),
    "licences": pa.schema(
        [
            *_OF,
            pa.field("licence", pa.string()),
            pa.field("documents", pa.int64()),
        ]
    ),
    SET_ASIDE: pa.schema(
        [
            *_OF,
            pa.field("doc_id", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("cluster_id", pa.string()),
        ]
    ),
    "decisions": pa.schema(
        [
            *_OF,
            pa.field("decided_at", _TIME),
            pa.field("decided_by", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("details", pa.string()),
        ]
    ),
}
"""Columns of the tables beside `documents`."""

DATASET_RECORDED = "dataset recorded"
"""The kind of decision that a version was taken into the catalog."""


def dataset_row(receipt: Receipt, splits: Iterable[str], snapshot_id: int) -> dict[str, Any]:
    """What stage `curate` says of its result."""
    counts = {split: receipt.metrics[split] for split in splits}
    return {
        "documents": sum(int(one["documents"]) for one in counts.values()),
        "characters": sum(int(one["characters"]) for one in counts.values()),
        "languages": [
            {
                "language": language,
                "split": split,
                "documents": int(documents),
                "characters": int(one["characters_by_language"][language]),
            }
            for split, one in sorted(counts.items())
            for language, documents in sorted(one["documents_by_language"].items())
        ],
        "receipt_key": receipt.key,
        "made_at": datetime.fromisoformat(receipt.finished_at),
        "made_by": receipt.made_by,
        "code_version": receipt.code_version,
        "code_digest": receipt.code_digest,
        "environment_digest": receipt.environment_digest,
        "snapshot_id": snapshot_id,
    }


def owner_rows(receipt: Receipt, splits: Iterable[str], agreed: Iterable[Owner]) -> list[dict[str, Any]]:
    """Everyone who gave text, with what the profile says was agreed with them. A document counts for each owner."""
    terms = {owner.name: owner.model_dump(exclude={"name"}) for owner in agreed}
    counts = _total(receipt, splits, "documents_by_owner")
    return [{"owner": name, "documents": counts[name]} | terms.get(name, {}) for name in sorted({*counts, *terms})]


def licence_rows(receipt: Receipt, splits: Iterable[str]) -> list[dict[str, Any]]:
    """Documents by licence."""
    counts = _total(receipt, splits, "documents_by_licence")
    return [{"licence": name, "documents": documents} for name, documents in sorted(counts.items())]


def decision_row(kind: str, by: str, at: datetime, details: Mapping[str, Any]) -> dict[str, Any]:
    """What someone decided."""
    return {"decided_at": at, "decided_by": by, "kind": kind, "details": json.dumps(details, sort_keys=True)}


def _total(receipt: Receipt, splits: Iterable[str], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for split in splits:
        total.update({key: int(value) for key, value in receipt.metrics[split][name].items()})
    return total
