"""SQL over the catalog's tables, by DuckDB in this process; and what differs between two versions.

DuckDB's own readers of Iceberg and S3 are extensions that it would have to download. Here pyiceberg says which files a
snapshot has, pyarrow reads them from the store, and DuckDB asks pyarrow for what it needs, piece by piece: the columns
that a query names and the row groups that its conditions leave. What does not fit into memory goes to a scratch folder.
The connection can read and write nothing else.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import PyArrowFileIO, schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from sovereign.errors import CatalogError
from sovereign.lake.catalog import Catalog, data_files, equal, told
from sovereign.lake.catalog_tables import DOCUMENTS
from sovereign.lake.catalog_versions import Version

MEMORY = "1GB"
"""What DuckDB holds before it goes to disk."""

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
"""MULTI is PIVOT, which DuckDB takes apart. EXPLAIN is none: with ANALYZE it runs what it explains, a COPY too."""
_LOOK_S = 0.2
_END_S = 10.0
"""How long a query that was interrupted may take to end."""
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": MEMORY,
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


_CHANGES = """
CREATE TEMP TABLE changes AS
SELECT
  coalesce(b.doc_id, a.doc_id) AS doc_id,
  CASE WHEN a.doc_id IS NULL THEN 'added' WHEN b.doc_id IS NULL THEN 'removed' ELSE 'changed' END AS change,
  CASE WHEN change = 'changed' THEN [name FOR name IN [{differ}] IF name IS NOT NULL] ELSE [] END AS columns,
  [a.language] AS old_languages, [b.language] AS new_languages,
  a.owners AS old_owners, b.owners AS new_owners,
  [a.licence] AS old_licences, [b.licence] AS new_licences
FROM (SELECT * REPLACE (sha256(text) AS text) FROM old) AS a
FULL JOIN (SELECT * REPLACE (sha256(text) AS text) FROM new) AS b ON a.doc_id = b.doc_id
WHERE change <> 'changed' OR len(columns) > 0
"""
"""Texts are compared by their SHA-256, so that the join holds no texts."""
_DIFFERS = """CASE WHEN a."{name}" IS DISTINCT FROM b."{name}" THEN '{name}' END"""
_GROUPED = """
SELECT name, change, count(*) FROM (
  SELECT name, CASE WHEN bool_or(is_new) AND bool_or(NOT is_new) THEN 'changed' WHEN bool_or(is_new) THEN 'added'
               ELSE 'removed' END AS change
  FROM (
    SELECT doc_id, unnest(old_{group}) AS name, false AS is_new FROM changes
    UNION ALL SELECT doc_id, unnest(new_{group}), true FROM changes
  ) WHERE name IS NOT NULL GROUP BY doc_id, name
) GROUP BY ALL ORDER BY ALL
"""
"""A document that changes hands is removed for one owner and added for another."""


@dataclass(frozen=True)
class Answer:
    """Rows of a query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool
    """Whether the query has rows beyond the limit."""


def query(catalog: Catalog, sql: str, scratch: Path, *, limit: int, at: Version | None = None) -> Answer:
    """The first `limit` rows of a query over the tables; `documents` as it was when `at` was recorded, else as it is.

    Raises:
        CatalogError: nothing is recorded yet, or the query cannot run.
    """
    with told("read the tables"):
        tables = {name: table_data(table) for name, table in catalog.tables().items()}
        if at is not None:
            tables[DOCUMENTS] = table_data(catalog.table(DOCUMENTS), snapshot_id=at.snapshot_id)
    with _connect(tables, scratch) as connection:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise CatalogError(
                "not one query", got=f"{len(statements)} statements", hint="docs/catalog.md has an example"
            )
        if (kind := statements[0].type) not in _READING:  # COPY … TO writes files also into the scratch folder
            raise CatalogError(
                "the query cannot run",
                got=f"a statement of kind {kind.name}",
                expected="one that reads: SELECT, WITH, PIVOT, DESCRIBE or SUMMARIZE",
                hint=f"tables: {', '.join(tables)}; docs/catalog.md",
            )
        return _interruptibly(connection, lambda: _fetch(connection.execute(sql), limit))


def _interruptibly(connection: duckdb.DuckDBPyConnection, work: Callable[[], Answer]) -> Answer:
    """What `work` gives, done in a thread: in this one, Ctrl-C and signal handlers would wait for the query."""
    done: Future[Answer] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  (the caller raises it)
            done.set_exception(error)

    threading.Thread(target=run, name="query", daemon=True).start()
    while True:
        try:
            return done.result(timeout=_LOOK_S)
        except TimeoutError:
            if done.done():
                raise
        except BaseException:
            connection.interrupt()
            wait([done], _END_S)
            raise


def document_of(catalog: Catalog, version: Version, doc_id: str) -> dict[str, Any]:
    """One document's columns.

    Raises:
        CatalogError: the version has none of this identifier.
    """
    with told(f"read {version.name}"):
        condition = equal("dataset", version.dataset)
        data = table_data(catalog.table(DOCUMENTS), snapshot_id=version.snapshot_id, condition=condition)
        found: list[dict[str, Any]] = data.to_table(filter=ds.field("doc_id") == doc_id).to_pylist()
    if not found:
        raise CatalogError(f"{version.name} has no such document", got=doc_id)
    return found[0]


class _Frugal(ds.FileSystemDataset):
    """A dataset of which no row group is read ahead: by itself pyarrow holds some hundred megabytes of them."""

    def scanner(self, *arguments: Any, **options: Any) -> ds.Scanner:
        """As in pyarrow."""
        return super().scanner(*arguments, **{"batch_readahead": 0, "fragment_readahead": 0} | options)


def table_data(
    table: Table,
    *,
    snapshot_id: int | None = None,
    condition: BooleanExpression | None = None,
    without: Collection[str] = (),
) -> ds.Dataset:
    """A snapshot of a table (by default the newest) as pyarrow reads it: lazily, and as often as it is asked.

    Args:
        condition: on the partition's columns; files that it excludes are left out.
        without: locations of files to leave out.
    """
    scan = table.scan(row_filter=condition or AlwaysTrue(), snapshot_id=snapshot_id)
    schema = _plain(schema_to_pyarrow(scan.projection(), include_field_ids=False))
    tasks = list(scan.plan_files()) if table.current_snapshot() is not None else []
    if any(task.delete_files for task in tasks):
        raise CatalogError(
            f"another program has deleted single rows of table {table.name()[-1]}, which is not read here",
            hint="let that program rewrite its data files",
        )
    files = [task.file for task in tasks if task.file.file_path not in without]
    parquet = ds.ParquetFileFormat()
    fragments = [_fragment(table, parquet, file) for file in files]
    return _Frugal(fragments, schema, parquet)


def _fragment(table: Table, parquet: ds.ParquetFileFormat, file: DataFile) -> ds.Fragment:
    io = table.io
    assert isinstance(io, PyArrowFileIO)
    scheme, host, path = io.parse_location(file.file_path)
    names = [field.name for field in table.specs()[file.spec_id].fields]
    values = [ds.field(name) == file.partition[number] for number, name in enumerate(names)]
    known = functools.reduce(operator.and_, values) if values else None
    return parquet.make_fragment(path, filesystem=io.fs_by_scheme(scheme, host), partition_expression=known)


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as our Parquet files have it: pyiceberg's have offsets of 64 bits."""
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(pa.field("element", _plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_plain_type(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


@contextmanager
def _connect(tables: Mapping[str, ds.Dataset], scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that sees `tables` and nothing else."""
    with duckdb.connect(":memory:", config=_SETTINGS | {"temp_directory": str(scratch)}) as connection:
        for name, data in tables.items():
            connection.register(name, data)
        connection.execute("SET enable_progress_bar = false")  # it goes to stdout
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            yield connection
        except duckdb.Error as error:
            raise CatalogError(
                "the query cannot run", got=str(error).strip(), hint=f"tables: {', '.join(tables)}; docs/catalog.md"
            ) from error


def _fetch(result: duckdb.DuckDBPyConnection, limit: int) -> Answer:
    rows = result.fetchmany(limit + 1)
    columns = [str(column[0]) for column in result.description or ()]
    return Answer(columns, rows[:limit], len(rows) > limit)


@dataclass(frozen=True)
class Difference:
    """What differs between two versions of a dataset, or between two datasets."""

    documents: dict[str, int]
    """How many are `added`, `removed`, `changed`."""
    columns: dict[str, int]
    """Of those changed, how many differ in which column."""
    languages: dict[str, dict[str, int]]
    """By language, then as in `documents`."""
    owners: dict[str, dict[str, int]]
    """The same by owner: added are the documents that are theirs in `new` only, removed those that no longer are."""
    licences: dict[str, dict[str, int]]
    """The same by licence."""
    listed: list[dict[str, Any]]
    """The first ones by identifier: `doc_id`, `change`, and the `columns` that differ."""
    more: bool
    """Whether there are others than those listed."""


def compare(catalog: Catalog, old: Version, new: Version, scratch: Path, *, limit: int) -> Difference:
    """What `new` has, lacks and has otherwise, by the documents' identifiers; at most `limit` are listed.

    Columns that only one version has are not compared.

    Raises:
        CatalogError: a version cannot be read.
    """
    documents = catalog.table(DOCUMENTS)
    with told(f"compare {old.name} with {new.name}"):
        paths = [{file.file_path for file in data_files(documents, one.dataset, one.snapshot_id)} for one in (old, new)]
        both = paths[0] & paths[1]  # the same file: the same documents
        data = {
            name: table_data(
                documents, snapshot_id=one.snapshot_id, condition=equal("dataset", one.dataset), without=both
            )
            for name, one in (("old", old), ("new", new))
        }
    names = [name for name in data["new"].schema.names if name in data["old"].schema.names]
    compared = [name for name in names if name not in ("doc_id", "dataset")]
    with _connect(data, scratch) as connection:
        connection.execute(_CHANGES.format(differ=", ".join(_DIFFERS.format(name=name) for name in compared)))
        listed = _fetch(connection.execute("SELECT doc_id, change, columns FROM changes ORDER BY doc_id"), limit)
        return Difference(
            documents={"added": 0, "removed": 0, "changed": 0}
            | dict(connection.execute("SELECT change, count(*) FROM changes GROUP BY ALL").fetchall()),
            columns=dict(
                connection.execute(
                    "SELECT name, count(*) FROM (SELECT unnest(columns) AS name FROM changes) GROUP BY ALL ORDER BY ALL"
                ).fetchall()
            ),
            languages=_grouped(connection, "languages"),
            owners=_grouped(connection, "owners"),
            licences=_grouped(connection, "licences"),
            listed=[dict(zip(listed.columns, row, strict=True)) for row in listed.rows],
            more=listed.more,
        )


def _grouped(connection: duckdb.DuckDBPyConnection, group: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, change, count in connection.execute(_GROUPED.format(group=group)).fetchall():
        found.setdefault(name, {})[change] = count
    return found
