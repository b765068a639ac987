"""The catalog: Iceberg tables in the lake's store, and a SQL database that says where each stands now.

Table `documents` has the newest recorded version of each dataset, those before are in its older snapshots
(sovereign/lake/catalog_recording.py). The other tables: sovereign/lake/catalog_tables.py. For people: docs/catalog.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
    ValidationException,
)
from pyiceberg.expressions import And, BooleanExpression, EqualTo, Reference
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, TableProperties, Transaction
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sovereign.errors import CatalogError
from sovereign.lake.catalog_tables import DOCUMENTS, TABLES
from sovereign.lake.catalog_versions import KEY, Version, find_version, summary_of, versions_of
from sovereign.store import S3Store, Store

NAME = "sovereign"
NAMESPACE = "lake"
"""Of the tables. With `NAME`, the catalog's own, it is how other engines find them."""
_PREFIX = f"catalog/{NAMESPACE}"
"""Of the keys of all that the tables consist of."""
_CONNECT_TIMEOUT_S = "10"
_PROPERTIES = {TableProperties.COMMIT_NUM_RETRIES: "0"}
"""Who commits second is told, since what was looked up for the commit may not be so any more."""
_FILE_ROWS = 250_000
"""Of a small table's data file, at least; some ten megabytes."""


def database_address(configured: str | None, file: Path) -> str:
    """Where the catalog's database is, for `Catalog.open`: the profile's PostgreSQL, else the SQLite `file`."""
    if configured is None:
        return URL.create("sqlite", database=str(file)).render_as_string()
    url = make_url(configured).set(drivername="postgresql+psycopg")
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": _CONNECT_TIMEOUT_S})
    return url.render_as_string()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell what database, store and pyiceberg refuse as CatalogError; `what` failed, a verb and its object.

    Of a damaged file pyiceberg says almost anything: it ends, is no UTF-8, cannot be decompressed, has wrong values.
    """
    try:
        yield
    except (CommitFailedException, TableAlreadyExistsError, ValidationException) as error:
        raise CatalogError(f"cannot {what}: another program changed a table meanwhile", hint="run it again") from error
    except SQLAlchemyError as error:
        raise CatalogError(
            f"cannot {what}: the database refuses",
            got=str(error.orig if isinstance(error, DBAPIError) else error).strip(),
            hint="docs/catalog.md says where the connection's settings come from",
        ) from error
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException, ValidationError) as error:
        raise CatalogError(f"cannot {what}: {error}") from error


class Catalog:
    """An open catalog. A context manager."""

    def __init__(self, catalog: SqlCatalog, store: Store) -> None:
        self._catalog, self.store = catalog, store

    @classmethod
    def open(cls, address: str, store: Store) -> Self:
        """Open the catalog of `store` whose database is at `address`; its two SQL tables are made on first use.

        Raises:
            CatalogError: the database does not answer or does not let in.
        """
        with told("open the catalog"):
            return cls(SqlCatalog(NAME, uri=address, **_file_access(store)), store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catalog.engine.dispose()

    def key(self, table: str, *parts: str) -> str:
        """Store key of something that a table consists of."""
        return "/".join((_PREFIX, table, *parts))

    def location(self, key: str) -> str:
        """Address of a store key, as Iceberg has it: a path alone where pyiceberg would cut the URL at a `#` or `?`."""
        url = self.store.url.removeprefix("file://") if {"#", "?"} & {*self.store.url} else self.store.url
        return url + ("" if url.endswith("//") else "/") + key

    def table(self, name: str) -> Table:
        """One of its tables.

        Raises:
            CatalogError: nothing is recorded yet, or the table is of another store, or its files are gone.
        """
        with told(f"read table {name}"):
            try:
                table = self._catalog.load_table((NAMESPACE, name))
            except NoSuchTableError as error:
                raise CatalogError(
                    f"nothing is recorded in the catalog yet: no table {name}", hint="sovereign lake record SITE"
                ) from error
            except FileNotFoundError as error:
                raise CatalogError(
                    f"the files of table {name} are gone from the store",
                    got=str(error),
                    hint=f"restore them; or, to begin anew, delete the rows of catalog {NAME} in table iceberg_tables",
                ) from error
        if table.location() != (expected := self.location(self.key(name))):
            raise CatalogError(
                f"table {name} is of another store",
                got=table.location(),
                expected=expected,
                hint="each store needs a database of its own: datalake.catalog in the profile",
            )
        return table

    def tables(self) -> dict[str, Table]:
        """Its tables by name; those that have no row yet are left out.

        Raises:
            CatalogError: see `table`.
        """
        documents, there = self.table(DOCUMENTS), self._names()
        return {DOCUMENTS: documents} | {name: self.table(name) for name in TABLES if name in there}

    def _names(self) -> set[str]:
        with told("list the tables"):
            return {identifier[-1] for identifier in self._catalog.list_tables(NAMESPACE)}

    def rows(self, name: str, version: Version | None = None) -> list[dict[str, Any]]:
        """Rows of one of the small tables: those of a version, or all; none before the table has its first.

        Raises:
            CatalogError: see `table`.
        """
        self.table(DOCUMENTS)
        if name not in self._names():  # the first recording may have ended between the two
            return []
        table = self.table(name)
        with told(f"read table {name}"):
            scan = table.scan()
            if version is not None:
                scan = scan.filter(And(equal("dataset", version.dataset), equal("version", version.version)))
            rows: list[dict[str, Any]] = scan.to_arrow().to_pylist()
        return rows

    def versions(self, dataset: str | None = None) -> list[Version]:
        """What was recorded, oldest first; a version that was recorded again is there twice.

        Raises:
            CatalogError: see `table`.
        """
        return [one for one in versions_of(self.table(DOCUMENTS)) if dataset in (None, one.dataset)]

    def find(self, reference: str) -> Version:
        """The version that `reference` names (`sovereign.lake.catalog_versions.find_version`).

        Raises:
            CatalogError: there is none, or more than one; the message names those that there are.
        """
        return find_version(self.versions(), reference)

    def ensure(self, name: str, schema: pa.Schema, partition: Sequence[str] = ()) -> Table:
        """The table `name`, made if it is not there.

        Args:
            schema: its columns when it is made.
            partition: columns by whose values its files are told apart.

        Raises:
            CatalogError: see `table`; the caller tells what the database refuses (`told`).
        """
        self._catalog.create_namespace_if_not_exists(NAMESPACE)
        identifier = (NAMESPACE, name)
        if not self._catalog.table_exists(identifier):
            making = self._catalog.create_table_transaction(
                identifier, optional(schema), location=self.location(self.key(name)), properties=_PROPERTIES
            )
            with making as transaction, transaction.update_spec() as spec:
                for column in partition:
                    spec.add_identity(column)
        return self.table(name)

    def append(self, name: str, key: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a small table, in one commit, unless a commit with this key did.

        Raises:
            CatalogError: see `ensure`.
        """
        self.append_parts(name, key, [pa.Table.from_pylist(rows, schema=TABLES[name])])

    def append_parts(self, name: str, key: str, parts: Iterable[pa.Table]) -> None:
        """The same for rows that come in parts, one of which is in memory at a time; `parts` is read only if needed.

        Raises:
            CatalogError: see `ensure`.
        """
        table = self.ensure(name, TABLES[name])
        if has_key(table, key):
            return
        with table.transaction() as transaction:
            evolve(transaction, TABLES[name])
            schema = schema_to_pyarrow(transaction.table_metadata.schema().select(*TABLES[name].names))
            files = [_write(table, rows.select(schema.names).cast(schema)) for rows in _gather(parts)]
            transaction.add_files(files, snapshot_properties={KEY: key}, check_duplicate_files=False)

    def replace(self, name: str, dataset: str, version: str, rows: list[dict[str, Any]]) -> None:
        """Make `rows` those of a version in a small table, in one commit, unless they are; its snapshots keep others.

        Raises:
            CatalogError: see `ensure`.
        """
        table = self.ensure(name, TABLES[name])
        of = And(equal("dataset", dataset), equal("version", version))
        wanted = pa.Table.from_pylist(rows, schema=TABLES[name])
        before = table.scan(row_filter=of).to_arrow().to_pylist()
        if [{name: row.get(name) for name in wanted.column_names} for row in before] == wanted.to_pylist():
            return
        with table.transaction() as transaction:
            evolve(transaction, TABLES[name])
            if before:
                transaction.delete(of)
            transaction.append(wanted)


def _gather(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of `parts` in tables of `_FILE_ROWS`, or a part more: many small files are slow to read."""
    found: list[pa.Table] = []
    num_rows = 0
    for part in parts:
        found.append(part)
        num_rows += part.num_rows
        if num_rows >= _FILE_ROWS:
            yield pa.concat_tables(found)
            found, num_rows = [], 0
    if num_rows:
        yield pa.concat_tables(found)


def _write(table: Table, rows: pa.Table) -> str:
    """Write a data file that no snapshot has yet; its location."""
    location = table.location_provider().new_data_location(f"{uuid4()}.parquet")
    with table.io.new_output(location).create() as file:
        pq.write_table(rows, cast(pa.NativeFile, file), compression="zstd")
    return location


def equal(column: str, value: str) -> BooleanExpression:
    """The condition that `column` has this value."""
    return EqualTo(term=Reference(column), value=value)


def data_files(documents: Table, dataset: str, snapshot_id: int | None = None) -> list[DataFile]:
    """Data files of a dataset in a snapshot, by default the newest."""
    if documents.current_snapshot() is None:
        return []
    scan = documents.scan(row_filter=equal("dataset", dataset), snapshot_id=snapshot_id)
    return [task.file for task in scan.plan_files()]


def has_key(table: Table, key: str) -> bool:
    """Whether a commit with this key added rows to one of the small tables."""
    return any(summary_of(one).get(KEY) == key for one in table.snapshots())


def evolve(transaction: Transaction, schema: pa.Schema) -> None:
    """Add the columns of `schema` that the table has not, by name; rows that are there have null in them."""
    with transaction.update_schema() as update:
        update.union_by_name(optional(schema))


def optional(schema: pa.Schema) -> pa.Schema:
    """The same columns, each nullable: a column that comes later has no value in the rows before."""
    return pa.schema([field.with_nullable(True).remove_metadata() for field in schema])


def _file_access(store: Store) -> Mapping[str, str]:
    """How pyiceberg reads and writes in the store."""
    properties = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
    if isinstance(store, S3Store):
        access_key, secret_key = store.keys
        properties |= {
            "s3.endpoint": store.client.meta.endpoint_url,
            "s3.access-key-id": access_key,
            "s3.secret-access-key": secret_key,
            "s3.region": "us-east-1",
        }
    return properties
