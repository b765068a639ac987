"""The catalog's tables beside `documents`: rows that come in parts, and rows that are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sovereign.lake.catalog_tables import TABLES
from sovereign.profile_rights import Owner
from tests.sovereign.lake.recorded import Lake, document

FIRST = [document(number) for number in range(10)]
SECOND = [*FIRST[:4], document(4, "Amended."), *FIRST[5:]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_rows_in_parts_are_one_snapshot(lake: Lake) -> None:
    """Stage `curate` makes a file of rejected documents for each of its tasks, of which there are thousands."""
    schema = TABLES["set_aside"]
    of = {"dataset": "test", "version": "v", "reason": "too short", "cluster_id": None}
    parts = [[of | {"doc_id": f"gazette/{part}-{number}"} for number in range(part % 3)] for part in range(500)]
    with lake.open() as catalog:
        catalog.ensure("documents", TABLES["datasets"])
        for _ in range(2):
            catalog.append_parts("set_aside", "v", (pa.Table.from_pylist(part, schema=schema) for part in parts))
        catalog.append("set_aside", "other", [of | {"doc_id": "late", "version": "w"}])
        catalog.append("set_aside", "empty", [])
        rows = catalog.rows("set_aside")
        snapshots = catalog.table("set_aside").snapshots()
        files = [task.file for task in catalog.table("set_aside").scan().plan_files()]
    key = itemgetter("doc_id")
    expected = [row for part in parts for row in part] + [of | {"doc_id": "late", "version": "w"}]
    assert sorted(rows, key=key) == sorted(expected, key=key)
    assert len(snapshots) == 3
    assert sorted(file.record_count for file in files) == [1, 499]
    assert all(file.lower_bounds and file.upper_bounds for file in files)
    schemas = [pq.read_schema(file.file_path.removeprefix("file://")) for file in files]
    assert [[(field.metadata or {})[b"PARQUET:field_id"] for field in one] for one in schemas] == [
        [b"1", b"2", b"3", b"4", b"5"]
    ] * 2


def test_many_rows_in_parts_are_written_in_files_as_they_come(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign.lake.catalog._FILE_ROWS", 10)
    written: list[int] = []

    def parts() -> Iterator[pa.Table]:
        for part in range(10):
            written.append(len(list(lake.store.list("catalog/lake/set_aside/data/"))))
            rows = [{"dataset": "test", "version": "v", "doc_id": f"{part}-{number}"} for number in range(4)]
            yield pa.Table.from_pylist(rows, schema=TABLES["set_aside"])

    with lake.open() as catalog:
        catalog.append_parts("set_aside", "v", parts())
        assert len(catalog.table("set_aside").snapshots()) == 1
        files = [task.file for task in catalog.table("set_aside").scan().plan_files()]
    assert written == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert sorted(file.record_count for file in files) == [4, 12, 12, 12]


def test_what_the_profile_says_of_owners_is_kept_as_it_was_last_recorded(lake: Lake) -> None:
    def consents() -> list[tuple[str, int, str | None]]:
        with lake.open() as catalog:
            return [(one["owner"], one["documents"], one["consent"]) for one in catalog.rows("owners", version)]

    lake.publish(FIRST)
    version, _ = lake.record(agreed=[Owner(name="Office 0", consent="one")])
    lake.add(SECOND)
    lake.publish(FIRST)
    expected: list[tuple[str, int, str | None]] = [("Office 0", 4, "two"), ("Office 1", 3, None), ("Office 2", 3, None)]
    assert lake.record(agreed=[Owner(name="Office 0", consent="two")])[1]
    assert consents() == expected
    for consent in ("one", "one", "two"):  # the documents stay the same, so that nothing else is recorded
        assert not lake.record(agreed=[Owner(name="Office 0", consent=consent)])[1]
        assert consents() == [("Office 0", 4, consent), *expected[1:]]
    with lake.open() as catalog:
        table = catalog.table("owners")
        assert len(catalog.rows("owners")) == 6
        said = {
            row["consent"]
            for snapshot in table.snapshots()
            for row in table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().to_pylist()
        }
        before = len(table.snapshots())
    assert said == {None, "one", "two"}
    lake.record(agreed=[Owner(name="Office 0", consent="two")])
    with lake.open() as catalog:
        assert len(catalog.table("owners").snapshots()) == before


def test_tables_of_before_get_the_columns_that_they_lack(lake: Lake) -> None:
    """As those that an earlier version of the kit made: what it lacked comes last, whatever its place here."""
    with lake.open() as catalog:
        catalog.ensure("documents", TABLES["datasets"])
        for name, column, row in (
            ("set_aside", 3, {"doc_id": "gazette/001", "reason": "too short", "cluster_id": "c"}),
            ("owners", 4, {"owner": "Museum", "documents": 1, "consent": "one", "terms": "t", "withdrawal": None}),
        ):
            catalog.ensure(name, TABLES[name].remove(column))
            catalog.table(name).append(pa.Table.from_pylist([{"version": "u"}], TABLES[name].remove(column)))
            rows = [{"dataset": "test", "version": "v"} | row]
            if name == "owners":
                catalog.replace(name, "test", "v", rows)
                catalog.replace(name, "test", "v", rows)
            else:
                catalog.append(name, "v", rows)
            assert catalog.table(name).schema().column_names[-1] == TABLES[name].names[column]
            assert len(catalog.table(name).snapshots()) == 2
            assert [one for one in catalog.rows(name) if one["version"] == "v"] == rows
