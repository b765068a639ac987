"""The catalog on real servers: its database on PostgreSQL, its files in S3 as served by versitygw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign.errors import CatalogError
from sovereign.lake.catalog_query import compare, query
from sovereign.profile_datalake import Datalake
from sovereign.store import S3Store, open_store
from tests.sovereign.lake.recorded import Lake, as_rows, document
from tests.sovereign.servers import PASSWORD, Postgres, free_port, postgres_server, s3_server

FIRST = [document(number) for number in range(10)]
SECOND = [*FIRST[:4], document(4, "Amended."), *FIRST[5:]]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


@pytest.fixture
def database(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty database, whose password libpq looks up in a file."""
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{server.port}:*:*:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    server.run("DROP DATABASE IF EXISTS catalog")
    server.run("CREATE DATABASE catalog")
    address = Datalake(catalog=server.url("catalog")).catalog
    assert address is not None
    return address


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Store]:
    folder = tmp_path / "s3"
    for bucket in ("curated", "catalog"):
        (folder / bucket).mkdir(parents=True)
    with s3_server(folder):
        store = open_store("s3://")
        assert isinstance(store, S3Store)
        yield store


def go_the_whole_way(lake: Lake) -> None:
    """Two versions, time travel, a query, what differs, a column that comes later."""
    first = lake.add(FIRST)
    second = lake.add(SECOND)
    assert lake.record() == (second, False)
    assert lake.documents() == as_rows(SECOND)
    assert lake.documents(first) == as_rows(FIRST)
    lake.add(FIRST, name="other", extra={"register": "formal"})
    with lake.open() as catalog:
        assert catalog.find("test") == second
        answer = query(
            catalog, "SELECT text FROM documents WHERE doc_id = 'gazette/004'", lake.folder, limit=9, at=first
        )
        assert answer.rows == [("Notice number 4.",)]
        answer = query(
            catalog, "SELECT register, count(*) FROM documents GROUP BY ALL ORDER BY ALL", lake.folder, limit=9
        )
        assert answer.rows == [("formal", 10), (None, 10)]
        assert compare(catalog, first, second, lake.folder, limit=9).documents["changed"] == 1
        assert [row["dataset"] for row in catalog.rows("datasets")].count("test") == 2


def test_the_database_may_be_postgresql(tmp_path: Path, server: Postgres, database: str) -> None:
    lake = Lake(tmp_path / "lake", database=database)
    go_the_whole_way(lake)
    server.run("ALTER TABLE iceberg_tables ADD COLUMN used boolean", database="catalog")  # it is really there
    assert not (tmp_path / "lake/catalog.sqlite").exists()


def test_the_files_may_be_in_s3_and_no_key_is_written_down(tmp_path: Path, s3: S3Store) -> None:
    lake = Lake(tmp_path / "lake", store=s3)
    go_the_whole_way(lake)
    written = [*(tmp_path / "s3/catalog").rglob("*"), tmp_path / "lake/catalog.sqlite"]
    assert any(path.name.endswith(".metadata.json") for path in written)
    assert not any(b"test-secret" in path.read_bytes() for path in written if path.is_file())


def test_both_at_once(tmp_path: Path, s3: S3Store, database: str) -> None:
    go_the_whole_way(Lake(tmp_path / "lake", store=s3, database=database))


def test_two_that_record_at_once_do_not_mix(tmp_path: Path, database: str) -> None:
    """Each in a process of its own, of another dataset; who comes second is told, and comes again."""
    lake = Lake(tmp_path / "lake", database=database)
    lake.add(FIRST[:2], name="first")
    names = ["one", "two", "three"]
    for name in names:
        lake.publish(FIRST, name=name)
    code = "import sys; from pathlib import Path; from tests.sovereign.lake.recorded import Lake\n"
    code += "Lake(Path(sys.argv[1]), database=sys.argv[2]).record(sys.argv[3])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(lake.folder), database, name], stderr=subprocess.PIPE)
        for name in names
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0 or b"CatalogError" in errors, errors.decode()
    for name in names:
        lake.record(name)
    expected = sorted(
        (row for name in ("first", *names) for row in as_rows(FIRST[:2] if name == "first" else FIRST, name)),
        key=lambda row: (row["dataset"], row["doc_id"]),
    )
    assert sorted(lake.documents(), key=lambda row: (row["dataset"], row["doc_id"])) == expected


def test_a_server_that_does_not_let_in_is_told(
    tmp_path: Path, server: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CatalogError, match=r"cannot open the catalog(.|\n)*[Cc]onnection refused"):
        Lake(tmp_path / "a", database=f"postgresql://postgres@127.0.0.1:{free_port()}/catalog").open()
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    with pytest.raises(CatalogError, match=r"cannot open the catalog(.|\n)*no password supplied"):
        Lake(tmp_path / "b", database=database).open()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://u:secret@h/d", "no password"),
        ("postgresql://u@h/d?password=secret", "no password"),
        ("sqlite:////data/catalog.sqlite", "postgresql://user@host/database"),
        ("mysql://u@h/d", "postgresql://user@host/database"),
    ],
)
def test_addresses_are_checked_in_the_profile(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Datalake(catalog=address)
