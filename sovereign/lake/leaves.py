"""The leaves of a dataset's tree in ascending order, in an SQLite file: sorted on disk, so memory stays bounded.

The file is made from documents and keys, and can be made again at any time. It lies beside the dataset key on the
site's machine: with the key of the openings, it tells which texts are in the dataset.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from sovereign.errors import ProofError, StoreError
from sovereign.files import put_in_place
from sovereign.lake.commitments import KEY_BYTES, make_root
from sovereign.lake.merkle import make_path, tree_hash

_CACHE_KIB = 64 * 1024
"""Memory of SQLite's page cache and sorter."""


@dataclass(frozen=True)
class Row:
    """A leaf with the place of its document."""

    leaf: bytes
    """Leaf key and commitment, 32 bytes each."""
    file: int
    """Which of the dataset's files, from 0, in the order of their names."""
    row: int
    """Which row of the file, from 0."""


def build_leaves(path: Path, rows: Iterable[Row]) -> None:
    """Write the file of leaves; it gets its name when it is complete.

    Raises:
        StoreError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, unsorted = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.unsorted")
    for temporary in (part, unsorted):
        temporary.unlink(missing_ok=True)
    database = sqlite3.connect(part, isolation_level=None)
    try:
        database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        database.execute("ATTACH ? AS scratch", (str(unsorted),))
        for schema in ("main", "scratch"):
            database.execute(f"PRAGMA {schema}.journal_mode=OFF")
            database.execute(f"PRAGMA {schema}.synchronous=OFF")
            database.execute(f"CREATE TABLE {schema}.leaves (leaf BLOB, file INTEGER, row INTEGER)")
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO scratch.leaves VALUES (?, ?, ?)", ((one.leaf, one.file, one.row) for one in rows)
        )
        database.execute("INSERT INTO main.leaves SELECT * FROM scratch.leaves ORDER BY leaf, file, row")
        database.execute("COMMIT")
        database.close()
        put_in_place(part, path)
    except sqlite3.Error as error:
        raise StoreError(f"cannot sort the leaves of {path}: {error}", hint="is the disk full?") from error
    finally:
        database.close()
        for temporary in (part, unsorted):
            temporary.unlink(missing_ok=True)


class Leaves:
    """A file of leaves, opened for reading; a context manager."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        self.size = int(self._database.execute("SELECT count(*) FROM leaves").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def __getitem__(self, index: int) -> Row:
        """The leaf at `index`, from 0."""
        return Row(
            *self._database.execute("SELECT leaf, file, row FROM leaves WHERE rowid = ?", (index + 1,)).fetchone()
        )

    def bisect(self, key: bytes) -> int:
        """Index of the first leaf whose key is not below `key`; `size` when there is none."""
        low, high = 0, self.size
        while low < high:
            middle = (low + high) // 2
            if self[middle].leaf < key:  # `key` is a prefix: a leaf with this key is not below it
                low = middle + 1
            else:
                high = middle
        return low

    def root(self) -> bytes:
        """The root that is published.

        Raises:
            ProofError: two documents have the same text, which a dataset has once only.
        """
        return make_root(self.size, tree_hash(self._ascending()))

    def paths(self, indices: Iterable[int]) -> list[list[bytes]]:
        """Paths of leaves; each costs one pass over all leaves, less what they share."""
        range_hash = cache(self._range_hash)
        return [make_path(index, self.size, range_hash) for index in indices]

    def _range_hash(self, start: int, end: int) -> bytes:
        return tree_hash(self._between(start, end))

    def _ascending(self) -> Iterator[bytes]:
        last = b""
        for leaf in self._between(0, self.size):
            if leaf[:KEY_BYTES] <= last:
                raise ProofError(
                    "two documents of the dataset have the same text",
                    expected="one leaf for each text",
                    hint="make the dataset anew: sovereign stage curate",
                )
            last = leaf[:KEY_BYTES]
            yield leaf

    def _between(self, start: int, end: int) -> Iterator[bytes]:
        query = "SELECT leaf FROM leaves WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
        return (leaf for (leaf,) in self._database.execute(query, (start, end)))
