"""Rows of a PostgreSQL query, in bounded memory, as JSON lines that the reader of such files takes.

The server makes a row's JSON and sorts the rows by it, so that the same rows come in the same order everywhere, and
reads them in one snapshot of a transaction that can write nothing. Where the connection's settings and password come
from is libpq's affair: environment, service file, password file; that is the site's own, where SOVEREIGN_PGPASSFILE
names one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign.errors import SourceError
from sovereign.profile import Source

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

_ROWS_PER_FETCH = 100
_CONNECT_TIMEOUT_S = 10
_SETTINGS = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL IntervalStyle = 'iso_8601'; "
_SETTINGS += "SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1"
_QUERY = """
SELECT line FROM (SELECT row_to_json(sovereign_row)::text AS line FROM ({query}
) AS sovereign_row) AS lines ORDER BY line COLLATE "C"
"""


def rows_digest(source: Source, into: Path | None = None) -> str:
    """Hex SHA-256 of the rows of `source`, which are also written to the file `into`.

    Raises:
        SourceError: the server does not answer, does not let this user in, or refuses the query.
        OSError: `into` cannot be written.
    """
    total = hashlib.sha256()
    if into is None:
        for line in _read_lines(source):
            total.update(line)
        return total.hexdigest()
    into.parent.mkdir(parents=True, exist_ok=True)
    with into.open("wb") as file:
        for line in _read_lines(source):
            total.update(line)
            file.write(line)
    return total.hexdigest()


def _read_lines(source: Source) -> Iterator[bytes]:
    """A JSON object and a line's end for each row."""
    import psycopg

    try:
        with (
            _password_file() as passfile,
            psycopg.connect(
                source.path,
                client_encoding="utf8",
                application_name="sovereign",
                connect_timeout=_CONNECT_TIMEOUT_S,
                passfile=passfile,
            ) as connection,
        ):
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            with _cursor(connection) as cursor:
                query = (source.query or "").strip().removesuffix(";")
                # The query is the profile's, whose author may read what this user of the database may.
                cursor.execute(_QUERY.format(query=query).encode())
                for (line,) in cursor:
                    yield line.replace(b"\n", b" ") + b"\n"  # outside of strings, where it means nothing
    except psycopg.Error as error:
        raise SourceError(
            f"cannot read source {source.name}",
            got=str(error).strip(),
            expected="a server that answers, a user that may connect, a query that it may run",
            hint="docs/corpus.md says where the connection's settings come from",
        ) from error


@contextmanager
def _password_file() -> Iterator[str | None]:
    """Where libpq finds the site's passwords; None where it is to look for itself.

    In a pod it belongs to another user and is read by the pod's group, and libpq passes over what a group can read: it
    is given a copy in memory.
    """
    passwords = Path(os.environ.get("SOVEREIGN_PGPASSFILE", ""))
    if not passwords.is_file():
        yield None
        return
    copy = os.memfd_create("pgpass")
    try:
        os.fchmod(copy, 0o600)
        os.write(copy, passwords.read_bytes())
        yield f"/proc/self/fd/{copy}"
    finally:
        os.close(copy)


def _cursor(connection: Connection) -> Cursor[tuple[bytes]]:
    """A server-side cursor that gives text as it came: a database without an encoding may hold anything."""
    from psycopg.adapt import Buffer, Loader

    class _Bytes(Loader):
        def load(self, data: Buffer) -> bytes:
            return bytes(data)

    connection.execute(_SETTINGS)
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        connection.execute("SET LOCAL client_encoding = 'SQL_ASCII'")
    cursor = connection.cursor("sovereign")
    cursor.itersize = _ROWS_PER_FETCH
    cursor.adapters.register_loader("text", _Bytes)
    return cursor
