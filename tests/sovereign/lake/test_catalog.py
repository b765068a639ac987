"""The catalog on SQLite over a folder: versions, time travel, columns that come later, recordings that are killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import URL, make_url

from sovereign.errors import CatalogError, StoreError
from sovereign.files import sha256_file
from sovereign.lake.catalog import database_address
from sovereign.lake.catalog_query import compare, document_of, query
from sovereign.lake.catalog_recording import record
from sovereign.lake.catalog_tables import TABLES
from sovereign.lake.dataset import Dataset
from sovereign.profile_rights import Owner
from sovereign.receipts import model_digest
from sovereign.store import FolderStore
from tests.sovereign.lake.recorded import Lake, as_rows, document

FIRST = [document(number) for number in range(10)]
SECOND = [*FIRST[:4], document(4, "Amended."), *FIRST[5:9], document(11)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def data_files(lake: Lake) -> set[str]:
    """Store keys of the catalog's data files."""
    return {key for key in lake.store.list("catalog/lake/documents/data/") if key.endswith(".parquet")}


def test_a_version_is_one_snapshot_with_every_document(lake: Lake) -> None:
    receipt = lake.publish(FIRST)
    version, is_new = lake.record()
    assert (version.version, is_new) == (model_digest(receipt.outputs), True)
    assert lake.documents() == as_rows(FIRST)
    assert version.summary["sovereign.receipt-key"] == receipt.key
    assert (version.summary["added-records"], version.summary["total-records"]) == ("10", "10")
    with lake.open() as catalog:
        assert len(catalog.table("documents").snapshots()) == 1


def test_data_files_are_the_curated_files_byte_for_byte(lake: Lake) -> None:
    receipt = lake.publish(FIRST)
    lake.record()
    assert isinstance(lake.store, FolderStore)
    digests = {sha256_file(lake.store.root / key) for key in data_files(lake)}
    assert digests == set(receipt.outputs.values())
    assert {Path(key).stem for key in data_files(lake)} == digests


def test_what_was_set_aside_is_recorded_with_its_version_without_its_text(lake: Lake) -> None:
    rejected = [(document(20, cluster_id="c"), "duplicate"), (document(21), "too short")]
    lake.publish(FIRST, rejected=rejected)
    first, _ = lake.record()
    second = lake.add(SECOND)
    lake.record()
    with lake.open() as catalog:
        rows = catalog.rows("set_aside", first)
        assert catalog.rows("set_aside", second) == []
    of: dict[str, Any] = {"dataset": "test", "version": first.version}
    assert rows == [
        of | {"doc_id": one.doc_id, "reason": reason, "cluster_id": one.cluster_id} for one, reason in rejected
    ]


def test_the_other_tables_say_what_the_receipt_and_the_profile_say(lake: Lake) -> None:
    receipt = lake.publish([*FIRST, document(12, owners=("Office 0", "Museum"))])
    version, _ = lake.record(agreed=[Owner(name="Museum", consent="contract"), Owner(name="Nobody yet", terms="none")])
    with lake.open() as catalog:
        (row,) = catalog.rows("datasets", version)
        owners = {one["owner"]: one for one in catalog.rows("owners", version)}
        licences = {one["licence"]: one["documents"] for one in catalog.rows("licences", version)}
        (decision,) = catalog.rows("decisions")
    characters = sum(len(one["text"]) for one in lake.documents())
    assert (row["documents"], row["characters"], row["receipt_key"]) == (11, characters, receipt.key)
    assert (row["made_by"], row["snapshot_id"]) == (receipt.made_by, version.snapshot_id)
    heldout = [one for one in row["languages"] if one["split"] == "heldout"]
    assert heldout == [{"language": "fr", "split": "heldout", "documents": 1, "characters": len(FIRST[0].text)}]
    assert sum(one["documents"] for one in row["languages"]) == 11
    assert {name: one["documents"] for name, one in owners.items()} == {
        "Office 0": 5, "Office 1": 3, "Office 2": 3, "Museum": 1, "Nobody yet": 0,
    }  # fmt: skip
    assert (owners["Museum"]["consent"], owners["Museum"]["terms"], owners["Office 0"]["consent"]) == (
        "contract", None, None,
    )  # fmt: skip
    assert licences == {"CC-BY-4.0": 5, "CC0-1.0": 6}
    assert (decision["kind"], decision["dataset"], decision["version"]) == ("dataset recorded", "test", version.version)
    assert decision["decided_by"] and decision["decided_at"].tzinfo
    assert json.loads(decision["details"]) == {"receipt_key": receipt.key, "snapshot_id": version.snapshot_id}


def test_the_same_version_again_changes_nothing(lake: Lake) -> None:
    first = lake.add(FIRST)
    before = sorted(lake.store.list("catalog/"))
    assert lake.record() == (first, False)
    assert sorted(lake.store.list("catalog/")) == before


def test_versions_before_stay_readable_and_shared_files_are_stored_once(lake: Lake) -> None:
    first = lake.add(FIRST)
    old_files = data_files(lake)
    second = lake.add(SECOND)
    assert lake.documents() == as_rows(SECOND)
    assert lake.documents(first) == as_rows(FIRST)
    # Of train, file 0 has 1, 4, 7 and file 2 has 3, 6, 9 or 11; file 1 and the held-out document are as they were.
    assert len(data_files(lake) - old_files) == 2
    assert (second.summary["added-data-files"], second.summary["deleted-data-files"]) == ("2", "2")
    with lake.open() as catalog:
        assert [snapshot.parent_snapshot_id for snapshot in catalog.table("documents").snapshots()] == [
            None,
            first.snapshot_id,
        ]
        assert [one.version for one in catalog.versions("test")] == [first.version, second.version]


def test_back_to_a_version_before_is_a_snapshot_without_new_files(lake: Lake) -> None:
    first = lake.add(FIRST)
    lake.add(SECOND)
    files = data_files(lake)
    again = lake.add(FIRST)
    assert (again.version, again.snapshot_id != first.snapshot_id) == (first.version, True)
    assert lake.documents() == as_rows(FIRST)
    assert data_files(lake) == files
    with lake.open() as catalog:
        assert len(catalog.rows("datasets")) == 2
        assert len(catalog.rows("decisions")) == 3
        assert catalog.find(first.version[:8]) == again


def test_datasets_are_apart(lake: Lake) -> None:
    first = lake.add(FIRST)
    other = lake.add(SECOND, name="other")
    assert [row for row in lake.documents() if row["dataset"] == "test"] == as_rows(FIRST)
    assert [row for row in lake.documents() if row["dataset"] == "other"] == as_rows(SECOND, "other")
    third = lake.add(FIRST[:3])
    assert [row for row in lake.documents() if row["dataset"] == "other"] == as_rows(SECOND, "other")
    with lake.open() as catalog:
        assert catalog.find("other") == other
        assert catalog.find("test") == third
        assert catalog.find(f"test@{first.version[:6]}") == first


def test_a_version_is_found_by_digest_snapshot_and_time(lake: Lake) -> None:
    first, second = lake.add(FIRST), lake.add(SECOND)
    between = first.recorded_at + (second.recorded_at - first.recorded_at) / 2
    with lake.open() as catalog:
        for reference in (first.version, first.version[:4], str(first.snapshot_id), between.isoformat()):
            assert catalog.find(f"test@{reference}") == first
            assert catalog.find(reference) == first
        assert catalog.find("test") == catalog.find("test@") == second
        assert catalog.find(f"{second.recorded_at:%Y-%m-%dT%H:%M:%S}.999999") == second
        with pytest.raises(CatalogError, match=rf"no such version(.|\n)*{second.name} (.|\n)*{first.name} "):
            catalog.find("test@0123456789ab")
        with pytest.raises(CatalogError, match="no such version"):
            catalog.find(f"test@{(first.recorded_at - timedelta(days=1)).isoformat()}")
        with pytest.raises(CatalogError, match="no such version"):
            catalog.find("neither digest nor time")
        with pytest.raises(CatalogError, match=r"no such dataset(.|\n)*got: nothing(.|\n)*expected: test"):
            catalog.find("nothing@abcd")


def test_a_time_that_means_two_datasets_is_not_guessed(lake: Lake) -> None:
    lake.add(FIRST)
    other = lake.add(SECOND, name="other")
    with lake.open() as catalog, pytest.raises(CatalogError, match="more than one version"):
        catalog.find((other.recorded_at + timedelta(seconds=1)).isoformat())


def test_a_column_that_comes_later_is_null_in_the_rows_before(lake: Lake) -> None:
    """As when a later version of the kit writes more columns."""
    first = lake.add(FIRST)
    other = lake.add(SECOND, name="other", extra={"register": "formal"})
    found = {(row["dataset"], row["register"]) for row in lake.documents()}
    assert found == {("test", None), ("other", "formal")}
    assert lake.documents(first) == as_rows(FIRST)
    with lake.open() as catalog:
        sql = "SELECT dataset, register, count(*) AS n FROM documents GROUP BY ALL ORDER BY ALL"
        assert query(catalog, sql, lake.folder, limit=9).rows == [("other", "formal", 10), ("test", None, 10)]
        with pytest.raises(CatalogError, match="register"):
            query(catalog, sql, lake.folder, limit=9, at=first)
    newest = lake.add(FIRST[:5])  # and with a version of the kit that has the column no more
    assert {row["register"] for row in lake.documents(newest) if row["dataset"] == "test"} == {None}
    assert {row["register"] for row in lake.documents(other) if row["dataset"] == "other"} == {"formal"}


def test_a_column_of_another_type_is_refused_and_changes_nothing(lake: Lake) -> None:
    first = lake.add(FIRST)
    receipt = lake.publish(SECOND)
    assert isinstance(lake.store, FolderStore)
    key = "curated/test/train-00000.parquet"
    table = pq.read_table(lake.store.root / key)
    column = table.schema.get_field_index("quality")
    pq.write_table(table.set_column(column, "quality", pa.array(["high"] * table.num_rows)), lake.store.root / key)
    outputs = receipt.outputs | {key: sha256_file(lake.store.root / key)}
    lake.store.put_bytes("curated/test/receipt.json", receipt.model_copy(update={"outputs": outputs}).to_bytes())
    with pytest.raises(CatalogError, match=r"cannot record test(.|\n)*quality"):
        lake.record()
    assert lake.documents() == as_rows(FIRST)
    with lake.open() as catalog:
        assert catalog.versions() == [first]


def test_a_file_that_is_not_what_its_receipt_says_is_refused(lake: Lake) -> None:
    first = lake.add(FIRST)
    lake.publish(SECOND)
    assert isinstance(lake.store, FolderStore)
    path = lake.store.root / "curated/test/train-00002.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"train-00002\.parquet is not what its receipt says"):
        lake.record()
    with lake.open() as catalog:
        assert catalog.versions() == [first]


KILLED = """
import os, signal, sys
from pathlib import Path
from pyiceberg.catalog.sql import SqlCatalog
from sovereign.lake.catalog import Catalog
from sovereign.store import FolderStore
from tests.sovereign.lake.recorded import Lake

def kill_at(owner, name, call, before=True):
    true, calls = getattr(owner, name), []
    def killed(*arguments, **options):
        calls.append(None)
        if len(calls) == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = true(*arguments, **options)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, killed)

{point}
Lake(Path(sys.argv[1])).record()
"""
POINTS = {
    "while files are stored": "kill_at(FolderStore, 'put_file', 2)",
    "before the commit": "kill_at(SqlCatalog, 'commit_table', 1)",
    "after the commit": "kill_at(SqlCatalog, 'commit_table', 1, before=False)",
    "between the other tables": "kill_at(Catalog, 'append', 2)",
}


@pytest.mark.parametrize("point", POINTS)
def test_a_recording_that_is_killed_leaves_one_version_whole(lake: Lake, point: str) -> None:
    first = lake.add(FIRST)
    lake.publish(SECOND)
    command = [sys.executable, "-c", KILLED.format(point=POINTS[point]), str(lake.folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    committed = point in ("after the commit", "between the other tables")
    assert lake.documents() == as_rows(SECOND if committed else FIRST)
    with lake.open() as catalog:
        assert len(catalog.versions()) == (2 if committed else 1)
        assert catalog.rows("datasets", first)
    version, is_new = lake.record()
    assert is_new != committed
    assert lake.documents() == as_rows(SECOND)
    assert lake.documents(first) == as_rows(FIRST)
    with lake.open() as catalog:
        assert {name: len(catalog.rows(name, version)) for name in ("datasets", "owners", "licences", "decisions")} == {
            "datasets": 1, "owners": 3, "licences": 2, "decisions": 1,
        }  # fmt: skip


def test_who_commits_second_is_told_and_changes_nothing(lake: Lake) -> None:
    lake.add(FIRST)
    lake.publish(SECOND)

    def meanwhile(done: int, _total: int) -> None:
        if done == 0:
            lake.add(FIRST[:3], name="other")

    with lake.open() as catalog:
        dataset = Dataset.open("test", lake.store, lake.folder / "scratch")
        with pytest.raises(CatalogError, match="another program changed a table meanwhile"):
            record(catalog, dataset, report=meanwhile)
    other = as_rows(FIRST[:3], "other")
    assert sorted(lake.documents(), key=str) == sorted(as_rows(FIRST) + other, key=str)
    lake.record()
    assert sorted(lake.documents(), key=str) == sorted(as_rows(SECOND) + other, key=str)


def test_the_first_recording_may_be_killed_too(lake: Lake) -> None:
    lake.publish(FIRST)
    for point in ("before the commit", "after the commit", "after the commit"):  # the table, the table, its documents
        command = [sys.executable, "-c", KILLED.format(point=POINTS[point]), str(lake.folder)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with lake.open() as catalog:
        assert [one.dataset for one in catalog.versions()] == ["test"]
        assert {name: catalog.rows(name) for name in TABLES} == {name: [] for name in TABLES}
    lake.record()
    assert lake.documents() == as_rows(FIRST)


def test_what_is_not_there_is_told(lake: Lake) -> None:
    with lake.open() as catalog:
        for read in (catalog.versions, catalog.tables, lambda: catalog.rows("datasets")):
            call: Callable[[], Any] = read
            with pytest.raises(CatalogError, match=r"nothing is recorded(.|\n)*sovereign lake record"):
                call()


def test_a_database_of_another_store_is_refused(lake: Lake, tmp_path: Path) -> None:
    lake.add(FIRST)
    elsewhere = Lake(tmp_path, FolderStore(tmp_path / "elsewhere"))
    elsewhere.publish(FIRST)
    with pytest.raises(CatalogError, match=r"of another store(.|\n)*database of its own"):
        elsewhere.record()
    assert lake.documents() == as_rows(FIRST)


def test_files_that_are_gone_are_told(lake: Lake) -> None:
    lake.add(FIRST)
    for key in list(lake.store.list("catalog/lake/documents/metadata/")):
        lake.store.delete(key)
    with lake.open() as catalog, pytest.raises(CatalogError, match="files of table documents are gone"):
        catalog.versions()


@pytest.mark.parametrize("name", ["snap-*.avro", "*-m0.avro", "*.metadata.json", "*.parquet"])
@pytest.mark.parametrize("part", [0, 0.5, 0.999])
def test_files_that_are_cut_off_are_told(lake: Lake, name: str, part: float) -> None:
    version = lake.add(FIRST)
    assert isinstance(lake.store, FolderStore)
    for path in (lake.store.root / "catalog/lake/documents").rglob(name):
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with lake.open() as catalog:
        with pytest.raises(CatalogError, match="cannot"):
            document_of(catalog, version, "gazette/001")
        with pytest.raises(CatalogError, match="cannot"):
            query(catalog, "SELECT sum(length(text)) FROM documents", lake.folder, limit=9)


@pytest.mark.parametrize("odd", ["a#b", "a?b", "a%20b"])
def test_a_folder_may_have_any_name(tmp_path: Path, odd: str) -> None:
    beside = [Lake(tmp_path / name) for name in ("a", "a b")]
    for one in beside:
        one.add(FIRST[:3])
    lake = Lake(tmp_path / odd)
    rejected = [(document(21), "too short")]
    first = lake.add(FIRST, rejected=rejected)
    second = lake.add(SECOND)
    assert lake.documents() == as_rows(SECOND)
    with lake.open() as catalog:
        assert catalog.versions() == [first, second]
        assert len(catalog.rows("set_aside")) == 1
        assert query(catalog, "SELECT count(*) FROM documents", lake.folder, limit=9, at=first).rows == [(10,)]
        assert compare(catalog, first, second, lake.folder, limit=9).documents["added"] == 1
    assert all(one.documents() == as_rows(FIRST[:3]) for one in beside)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", "a b", odd])


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.address = database_address(None, tmp_path / "no such folder" / "catalog.sqlite")
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        lake.open()
    (tmp_path / "catalog.sqlite").write_bytes(b"no database at all" * 500)
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        Lake(tmp_path).open()


def test_addresses_of_databases() -> None:
    assert database_address(None, Path("/a/b.sqlite")) == "sqlite:////a/b.sqlite"
    for path in ("/a#b/c?d=e", "/a%20b/c", "/ü:x@y z/c"):
        assert make_url(database_address(None, Path(path))) == URL.create("sqlite", database=path)
    found = database_address("postgresql://u@h:5/d?sslmode=require", Path("/a"))
    assert re.fullmatch(r"postgresql\+psycopg://u@h:5/d\?(?=.*sslmode=require)(?=.*connect_timeout=10).*", found)
