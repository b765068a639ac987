"""DuckDB over the catalog's tables: what it reads, what it must not do, what differs between versions."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import CatalogError
from sovereign.lake.catalog_query import Answer, compare, document_of, query
from sovereign.lake.catalog_versions import Version
from sovereign.lake.documents import Document
from tests.sovereign.lake.recorded import Lake, as_rows, document

FIRST = [document(number) for number in range(40)]
SECOND = [
    *FIRST[:4],
    document(4, "Amended."),
    document(5, owners=("Office 1", "Museum"), licence="CC0-1.0"),
    *FIRST[6:38],
    document(40),
]


class Read:
    """A catalog with two versions of a dataset and another dataset."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake(folder)
        self.first = self.lake.add(FIRST)
        self.other = self.lake.add(FIRST[:7], name="other")
        self.second = self.lake.add(SECOND)

    def query(self, sql: str, *, limit: int = 100, at: Version | None = None) -> Answer:
        with self.lake.open() as catalog:
            return query(catalog, sql, self.lake.folder / "scratch", limit=limit, at=at)

    def compare(self, old: Version, new: Version, limit: int = 100) -> Any:
        with self.lake.open() as catalog:
            return compare(catalog, old, new, self.lake.folder / "scratch", limit=limit)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return Read(tmp_path_factory.mktemp("lake"))


def test_duckdb_reads_what_was_published(read: Read) -> None:
    answer = read.query("SELECT * FROM documents WHERE dataset = 'test' ORDER BY doc_id")
    assert [dict(zip(answer.columns, row, strict=True)) for row in answer.rows] == as_rows(SECOND)


def test_documents_of_a_version_before(read: Read) -> None:
    answer = read.query("SELECT * FROM documents WHERE dataset = 'test' ORDER BY doc_id", at=read.first)
    assert [dict(zip(answer.columns, row, strict=True)) for row in answer.rows] == as_rows(FIRST)
    assert read.query("SELECT DISTINCT dataset FROM documents", at=read.first).rows == [("test",)]
    assert read.query("SELECT count(*) FROM datasets", at=read.first).rows == [(3,)]


def test_a_table_may_stand_twice_in_a_query(read: Read) -> None:
    sql = "SELECT count(*) FROM documents a JOIN documents b ON a.doc_id = b.doc_id AND a.dataset < b.dataset"
    assert read.query(sql).rows == [(7,)]


def test_counts_are_those_of_the_tables(read: Read) -> None:
    where = "FROM documents WHERE dataset = 'test' GROUP BY ALL ORDER BY ALL"
    with read.lake.open() as catalog:
        tables = {name: catalog.rows(name, read.second) for name in ("datasets", "owners", "licences")}
    told = sorted((one["licence"], one["documents"]) for one in tables["licences"])
    assert read.query("SELECT licence, count(*) " + where).rows == told
    assert told == sorted(Counter(one.licence for one in SECOND).items())
    where = "FROM (SELECT unnest(owners) AS owner FROM documents WHERE dataset = 'test') GROUP BY ALL ORDER BY ALL"
    found = read.query("SELECT owner, count(*) " + where).rows
    assert found == sorted((one["owner"], one["documents"]) for one in tables["owners"])
    (characters,) = (one["characters"] for one in tables["datasets"])
    assert read.query("SELECT sum(length(text)) FROM documents WHERE dataset = 'test'").rows == [(characters,)]


def test_rows_beyond_the_limit_are_told(read: Read) -> None:
    sql = "SELECT doc_id FROM documents WHERE dataset = 'other' ORDER BY doc_id"
    for limit, more in ((3, True), (6, True), (7, False), (8, False)):
        answer = read.query(sql, limit=limit)
        assert ([row[0] for row in answer.rows], answer.more) == (
            [one.doc_id for one in FIRST[: min(limit, 7)]],
            more,
        )


@pytest.mark.parametrize(
    "sql",
    [
        "COPY documents TO 'copied.csv'",
        "COPY (SELECT 1) TO 'copied.parquet'",
        "EXPLAIN ANALYZE COPY documents TO 'copied.csv'",
        "PRAGMA temp_directory='/tmp'",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_parquet('https://example.org/a.parquet')",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
        "EXPORT DATABASE 'folder'",
        "INSERT INTO documents SELECT * FROM documents",
        "DELETE FROM documents",
        "SELECT * FROM sql",
        "SELECT nothing FROM documents",
        "SELEKT 1",
    ],
)
def test_a_query_that_would_leave_the_tables_is_refused(
    read: Read, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogError, match=r"the query cannot run(.|\n)*tables: documents, datasets, owners"):
        read.query(sql)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sql", "count"), [("", 0), ("-- nothing", 0), ("SELECT 1; SELECT 2", 2)])
def test_what_is_not_one_query_is_refused(read: Read, sql: str, count: int) -> None:
    with pytest.raises(CatalogError, match=rf"not one query(.|\n)*got: {count} statements"):
        read.query(sql)


def test_a_query_may_end_with_a_semicolon_and_may_pivot(read: Read) -> None:
    assert read.query("/* a */ SELECT 1; -- and nothing after it").rows == [(1,)]
    answer = read.query("PIVOT (SELECT dataset, 1 AS n FROM documents) ON dataset USING sum(n)")
    assert (answer.columns, answer.rows) == (["other", "test"], [(7, 39)])


def test_one_document(read: Read) -> None:
    with read.lake.open() as catalog:
        assert document_of(catalog, read.second, "gazette/004")["text"] == "Amended."
        assert document_of(catalog, read.first, "gazette/004") == as_rows(FIRST)[4]
        with pytest.raises(CatalogError, match=r"test@\w+ has no such document(.|\n)*got: gazette/040"):
            document_of(catalog, read.first, "gazette/040")


def by_value(old: list[Document], new: list[Document], of: Callable[[Document], Iterable[str]]) -> dict[str, Any]:
    """What differs, by the values that documents have: counted apart from the code under test."""
    before, after = ({one.doc_id: one for one in version} for version in (old, new))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for doc_id in before.keys() | after.keys():
        if before.get(doc_id) == after.get(doc_id):
            continue
        had = set(of(before[doc_id])) if doc_id in before else set()
        has = set(of(after[doc_id])) if doc_id in after else set()
        for change, names in (("added", has - had), ("removed", had - has), ("changed", has & had)):
            for name in names:
                counts[name][change] += 1
    return {name: dict(values) for name, values in counts.items()}


def test_l18_an_owner_who_lost_a_document_is_counted(tmp_path: Path) -> None:
    """Text of three owners; one of them withdraws, the document stays with the others."""
    lake = Lake(tmp_path)
    old = [document(number, owners=("Archive", "Museum", "Press")) for number in range(3)] + [
        document(7, owners=("Museum",))
    ]
    new = [document(number, owners=("Archive", "Press")) for number in range(3)]
    versions = lake.add(old), lake.add(new)
    with lake.open() as catalog:
        found = compare(catalog, *versions, tmp_path / "scratch", limit=10)
    assert found.documents == {"added": 0, "removed": 1, "changed": 3}
    assert found.owners == {"Museum": {"removed": 4}, "Archive": {"changed": 3}, "Press": {"changed": 3}}


def test_what_differs_between_versions(read: Read) -> None:
    found = read.compare(read.first, read.second)
    assert found.documents == {"added": 1, "removed": 2, "changed": 2}
    assert found.columns == {"licence": 1, "owners": 1, "text": 1}
    assert found.listed == [
        {"doc_id": "gazette/004", "change": "changed", "columns": ["text"]},
        {"doc_id": "gazette/005", "change": "changed", "columns": ["owners", "licence"]},
        {"doc_id": "gazette/038", "change": "removed", "columns": []},
        {"doc_id": "gazette/039", "change": "removed", "columns": []},
        {"doc_id": "gazette/040", "change": "added", "columns": []},
    ]
    assert found.languages == {"fr": {"added": 1, "changed": 1}, "en": {"changed": 1, "removed": 2}}
    assert found.owners == by_value(FIRST, SECOND, lambda one: one.owners)
    assert found.owners["Museum"] == {"added": 1}
    assert found.licences == by_value(FIRST, SECOND, lambda one: [one.licence])
    assert not found.more


def test_the_other_way_round_and_to_itself(read: Read) -> None:
    found = read.compare(read.second, read.first, limit=2)
    assert found.documents == {"added": 2, "removed": 1, "changed": 2}
    assert (len(found.listed), found.more) == (2, True)
    assert found.licences["CC-BY-4.0"] == {"added": 2}
    same = read.compare(read.first, read.first)
    assert same.documents == {"added": 0, "removed": 0, "changed": 0}
    assert (same.columns, same.languages, same.listed, same.more) == ({}, {}, [], False)


def test_between_datasets(read: Read) -> None:
    found = read.compare(read.first, read.other)
    assert found.documents == {"added": 0, "removed": 33, "changed": 0}


def test_a_document_that_moved_to_the_other_split_is_changed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first, second = lake.add(FIRST[:6]), lake.add([*FIRST[1:6], FIRST[0]])
    with lake.open() as catalog:
        found = compare(catalog, first, second, tmp_path / "scratch", limit=9)
    assert found.documents == {"added": 0, "removed": 0, "changed": 2}
    assert found.columns == {"split": 2}


BIG = """
import sys
from pathlib import Path
from sovereign.lake.catalog_query import compare, document_of, query
from tests.sovereign.lake.recorded import Lake

def work(one, other):
    versions = [lake.record(name)[0] for name in (one, other)]
    with lake.open() as catalog:
        query(catalog, "SELECT dataset, sum(length(text)) FROM documents GROUP BY ALL", lake.folder, limit=9)
        query(catalog, "SELECT text FROM documents", lake.folder, limit=9)
        document_of(catalog, versions[0], "gazette/001")
        print(compare(catalog, *versions, lake.folder, limit=1).documents["changed"])
    status = Path("/proc/self/status").read_text()  # getrusage also counts what the parent had
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10

lake = Lake(Path(sys.argv[1]))
small, big = work("small-a", "small-b"), work("big-a", "big-b")
print(big - small)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """1 GB of text is recorded, queried and compared."""
    lake, numbers = Lake(tmp_path), random.Random(1)
    texts = [numbers.randbytes(1000).hex() * 5 for _ in range(300)]
    big = [document(number, f"{number} {texts[number % 300]}") for number in range(50_000)]
    for name, documents in (("small", big[:10]), ("big", big)):
        lake.publish(documents, name=f"{name}-a")
        lake.publish([*documents[:-1], document(len(documents) - 1, "Amended.")], name=f"{name}-b")
    done = subprocess.run([sys.executable, "-c", BIG, str(tmp_path)], capture_output=True, text=True, check=True)
    changed_small, changed_big, grown_mib = map(int, done.stdout.split())
    assert (changed_small, changed_big) == (1, 1)
    print(grown_mib, "MiB")
    assert grown_mib < 600


def test_a_data_file_that_is_gone_is_told(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    version = lake.add(FIRST)
    gone = next(key for key in lake.store.list("catalog/lake/documents/data/dataset=test/split=train/"))
    lake.store.delete(gone)
    with lake.open() as catalog:
        with pytest.raises(CatalogError, match=Path(gone).name):
            query(catalog, "SELECT sum(length(text)) FROM documents", tmp_path / "scratch", limit=9)
        with pytest.raises(CatalogError, match=Path(gone).name):
            document_of(catalog, version, "nothing")


@pytest.mark.parametrize(
    "copied", ["COPY documents TO '{0}'", "EXPLAIN ANALYZE COPY documents TO '{0}'", "EXPORT DATABASE '{0}'"]
)
def test_l16_nothing_is_copied_into_the_scratch_folder_either(read: Read, copied: str) -> None:
    """DuckDB lets COPY write where it spills."""
    target = read.lake.folder / "scratch" / "copied.csv"
    with pytest.raises(CatalogError, match=r"the query cannot run"):
        read.query(copied.format(target))
    assert not target.exists()


@pytest.mark.parametrize(
    "sql", ["DESCRIBE documents", "SUMMARIZE SELECT 1 AS one", "WITH a AS (SELECT 1) FROM a", "SHOW TABLES"]
)
def test_l16_other_ways_to_read_stay(read: Read, sql: str) -> None:
    assert read.query(sql).rows
