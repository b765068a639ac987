"""Whether a document was in a former version of a dataset: by what the catalog recorded, and by the receipts.

The catalog's snapshots hold the documents of every version that was recorded, and its table `set_aside` those that were
rejected, with what they duplicated. Where a version was recorded before there was that table, or never, less is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.dataset as ds

from sovereign.lake.catalog import Catalog, equal, has_key, told
from sovereign.lake.catalog_query import table_data
from sovereign.lake.catalog_tables import DOCUMENTS, SET_ASIDE
from sovereign.lake.catalog_versions import Version
from sovereign.receipts import Receipt

_DUPLICATES = ("duplicate", "near duplicate")


@dataclass(frozen=True)
class Recorded:
    """What is known of one document in one version."""

    is_in: bool | None
    """Whether its text is there; None: nobody knows."""
    kept_as: tuple[str, ...] = ()
    """The documents there that have its text: itself, or what was kept for it and its duplicates."""
    why: str = ""
    """Why it is not there, or why nobody knows."""


def look_up(catalog: Catalog, version: Version, receipt: Receipt, doc_id: str) -> Recorded:
    """What the catalog knows of a document in a version that was recorded.

    Args:
        receipt: the version's, of stage `curate`.

    Raises:
        CatalogError: the version cannot be read.
    """
    with told(f"read {version.name}"):
        kept = table_data(
            catalog.table(DOCUMENTS),
            snapshot_id=version.snapshot_id,
            condition=equal("dataset", version.dataset),
        )
        if _ids(kept, ds.field("doc_id") == doc_id):
            return Recorded(is_in=True, kept_as=(doc_id,))
        aside = _set_aside(catalog, version)
        if aside is None:
            return _by_receipt(receipt)
        is_wanted = (
            (ds.field("dataset") == version.dataset)
            & (ds.field("version") == version.version)
            & (ds.field("doc_id") == doc_id)
        )
        rows: list[dict[str, Any]] = aside.to_table(filter=is_wanted).to_pylist()
        for row in rows:
            if row["reason"] in _DUPLICATES:
                return Recorded(is_in=True, kept_as=_ids(kept, ds.field("cluster_id") == row["cluster_id"]))
        return Recorded(is_in=False, why=rows[0]["reason"] if rows else "not in its corpus")


def _ids(documents: ds.Dataset, condition: ds.Expression) -> tuple[str, ...]:
    found = documents.to_table(columns=["doc_id"], filter=condition)
    return tuple(sorted(str(doc_id) for doc_id in found.column("doc_id").to_pylist()))


def _set_aside(catalog: Catalog, version: Version) -> ds.Dataset | None:
    """The table of rejected documents, where it has those of the version."""
    table = catalog.tables().get(SET_ASIDE)
    if table is None or not has_key(table, f"{version.dataset}@{version.version}"):
        return None
    return table_data(table, condition=equal("version", version.version))


def _by_receipt(receipt: Receipt) -> Recorded:
    """What follows where a document is not among those kept, and which were rejected is not recorded."""
    rejected = receipt.metrics.get("rejected", {})
    if any(rejected.get(reason) for reason in _DUPLICATES):
        return Recorded(
            is_in=None, why="it was not kept itself; whether as a duplicate of another was not recorded then"
        )
    return Recorded(is_in=False, why="not kept, and nothing was kept for duplicates")
