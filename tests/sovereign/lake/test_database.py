"""Rows of a real PostgreSQL as a source."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign.errors import ProfileError, SourceError
from sovereign.lake.database import rows_digest
from sovereign.lake.documents import read_documents
from sovereign.lake.stages import corpus
from sovereign.profile import Profile, Source, parse_profile
from sovereign.receipts import Receipt
from sovereign.stages import run_stage
from sovereign.store import FolderStore
from tests.sovereign.servers import PASSWORD, Postgres, free_port, postgres_server

TABLE = """CREATE TABLE decree (
  number int PRIMARY KEY, body text, lang text, seen timestamptz, ministry json, secret text DEFAULT 'x')"""
ROWS = """INSERT INTO decree VALUES
  (3, 'Décret trois', 'fr', '2025-03-01 12:00+02', '"Justice"'),
  (1, E'Decree one\nof two lines', 'en', NULL, NULL),
  (2, NULL, 'en', NULL, NULL),
  (4, 'المرسوم الرابع', 'ar', NULL, E'\n"Interior"')"""
QUERY = "SELECT number AS id, body AS text, lang AS language, seen AS collected_at, ministry AS owner FROM decree;"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


@pytest.fixture(autouse=True)
def password_file(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libpq looks the password up."""
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{server.port}:*:*:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))


@pytest.fixture
def decrees(server: Postgres) -> Postgres:
    server.run("DROP TABLE IF EXISTS decree", TABLE, ROWS)
    return server


def source(path: str, query: str = QUERY) -> Source:
    return Source(name="decrees", path=path, query=query, owner="State", licence="CC0-1.0", language="en")


def profile(*sources: Source) -> Profile:
    document: dict[str, Any] = {"apiVersion": "sovereign/v1", "name": "test", "model": {"parameters": 4e5}}
    document |= {"training": {"tokens": 1e5}, "corpus": {"sources": [one.model_dump() for one in sources]}}
    return Profile.model_validate(document)


def run(wanted: Profile, folder: Path) -> tuple[Receipt, list[str]]:
    """The receipt and the messages."""
    stream = io.StringIO()
    receipt = run_stage(corpus, wanted, FolderStore(folder / "store"), folder / "work", stream)
    return receipt, [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def test_rows_are_documents(decrees: Postgres, tmp_path: Path) -> None:
    receipt, _ = run(profile(source(decrees.url())), tmp_path)
    documents = {one.doc_id: one for one in read_documents([tmp_path / "store/raw/test/documents-00000.parquet"])}
    assert {name: (one.text, one.language, one.owners[0], one.collected_at) for name, one in documents.items()} == {
        "decrees/query#1": ("Decree one\nof two lines", "en", "State", None),
        "decrees/query#3": ("Décret trois", "fr", "Justice", "2025-03-01T10:00:00+00:00"),
        "decrees/query#4": ("المرسوم الرابع", "ar", "Interior", None),
    }
    metrics = receipt.metrics["source decrees"]
    assert (metrics["found"], metrics["documents"], metrics["skipped"]) == (4, 3, {"no text": 1})
    assert not list((tmp_path / "work").rglob("rows"))


def test_the_same_rows_in_another_order_are_the_same_bytes(decrees: Postgres, tmp_path: Path) -> None:
    first, _ = run(profile(source(decrees.url())), tmp_path / "one")
    decrees.run("DELETE FROM decree WHERE number = 3", "INSERT INTO decree SELECT 3, 'Décret trois', 'fr', "
                "'2025-03-01 10:00+00', '\"Justice\"', 'another'", "VACUUM FULL decree")  # fmt: skip
    second, _ = run(profile(source(decrees.url())), tmp_path / "two")
    assert (first.inputs, first.outputs, first.key) == (second.inputs, second.outputs, second.key)


def test_stage_runs_again_when_a_row_has_changed_only(decrees: Postgres, tmp_path: Path) -> None:
    wanted = profile(source(decrees.url()))
    first, _ = run(wanted, tmp_path)
    assert run(wanted, tmp_path) == (first, ["unchanged"])
    decrees.run("UPDATE decree SET secret = 'not asked for'")
    assert run(wanted, tmp_path) == (first, ["unchanged"])
    decrees.run("UPDATE decree SET body = 'Amended' WHERE number = 3")
    assert run(wanted, tmp_path)[0].outputs != first.outputs


def test_settings_come_from_a_service_file(decrees: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "services").write_text(f"[gazette]\nhost=127.0.0.1\nport={decrees.port}\nuser=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert rows_digest(source("postgresql:///postgres?service=gazette")) == rows_digest(source(decrees.url()))


def test_password_file_that_a_pods_group_can_read_is_taken(
    decrees: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq itself passes it over."""
    expected = rows_digest(source(decrees.url()))
    (tmp_path / "pgpass").rename(tmp_path / "mounted")
    (tmp_path / "mounted").chmod(0o440)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "mounted"))
    with pytest.raises(SourceError, match="no password supplied"):
        rows_digest(source(decrees.url()))
    monkeypatch.setenv("SOVEREIGN_PGPASSFILE", str(tmp_path / "mounted"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert rows_digest(source(decrees.url())) == expected
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    monkeypatch.setenv("SOVEREIGN_PGPASSFILE", str(tmp_path / "not mounted"))
    with pytest.raises(SourceError, match="no password supplied"):
        rows_digest(source(decrees.url()))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nothing FROM nowhere", "nowhere"),
        ("SELEKT 1", "syntax error"),
        ("INSERT INTO decree VALUES (9, 'x') RETURNING body AS text", "syntax error"),
        ("SELECT pg_advisory_lock(1), nextval('numbers')::text AS text", "read-only"),
        ("SELECT 'x' AS text) AS s; DROP TABLE decree; SELECT (1", "syntax error|cannot insert multiple|multiple"),
    ],
)
def test_a_query_that_cannot_run_or_would_write_is_refused(query: str, message: str, decrees: Postgres) -> None:
    decrees.run("CREATE SEQUENCE IF NOT EXISTS numbers")
    with pytest.raises(SourceError, match=message):
        rows_digest(source(decrees.url(), query))
    assert len(rows_digest(source(decrees.url()))) == 64


def test_a_server_that_does_not_let_in_is_an_error(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="cannot read source decrees"):
        rows_digest(source(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"))
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    with pytest.raises(SourceError, match="no password supplied"):
        rows_digest(source(server.url()))


def test_bytes_of_a_database_without_an_encoding_are_counted(server: Postgres, tmp_path: Path) -> None:
    server.run("DROP DATABASE IF EXISTS bytes")
    server.run("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    server.run("CREATE TABLE t (text text)", database="bytes")
    server.run(r"INSERT INTO t VALUES (E'good \303\251'), (E'bad \351 one')", database="bytes")
    receipt, _ = run(profile(source(server.url("bytes"), "SELECT text FROM t")), tmp_path)
    assert receipt.metrics["source decrees"]["skipped"] == {"not UTF-8": 1}
    assert receipt.metrics["documents"] == 1


def test_memory_does_not_grow_with_the_rows(server: Postgres, tmp_path: Path) -> None:
    query = "SELECT repeat(md5(i::text), 64) AS text FROM generate_series(1, 60000) AS i"  # 120 MB
    lines = [
        "import json, resource, sys; from pathlib import Path",
        "from sovereign.lake.database import rows_digest; from sovereign.profile import Source",
        "wanted = Source.model_validate_json(sys.argv[1])",
        "small = wanted.model_copy(update={'query': 'SELECT 1::text AS text'})",
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
        "rows_digest(small); before = peak(); rows_digest(wanted, Path(sys.argv[2])); print(peak() - before)",
    ]
    arguments = [source(server.url(), query).model_dump_json(), str(tmp_path / "rows")]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines), *arguments], capture_output=True, check=True)
    assert (tmp_path / "rows").stat().st_size > 120_000_000
    assert int(done.stdout) < 30_000  # KiB


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("postgresql://u:secret@h/d", "SELECT 1", "no password"),
        ("postgresql://u@h/d?password=secret", "SELECT 1", "no password"),
        ("postgresql://u@h/d", None, "needs a query"),
        ("/data", "SELECT 1", "needs a query"),
        ("s3://", None, "s3://bucket"),
        ("s3://bucket/../other", None, "s3://bucket"),
    ],
)
def test_addresses_are_checked_in_the_profile(path: str, query: str | None, message: str) -> None:
    one = {"name": "one", "path": path, "query": query, "owner": "O", "licence": "CC0-1.0", "language": "en"}
    document = {"apiVersion": "sovereign/v1", "name": "test", "model": {"parameters": 4e5}}
    document |= {"training": {"tokens": 1e5}, "corpus": {"sources": [one]}}
    with pytest.raises(ProfileError, match=message):
        parse_profile(json.dumps(document))
