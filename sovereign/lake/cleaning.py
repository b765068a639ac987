"""Cleaning: normalisation, duplicates, and which documents are kept for evaluation."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sovereign.lake.documents import Document

MIN_FOR_HELDOUT = 20
"""A language with at least so many documents has at least one held out."""

CLUSTER_ID_CHARS = 32
"""Of the hex SHA-256 of the text that stands for a cluster."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t\xa0\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> tuple[str, tuple[str, ...]]:
    """The text in NFC, without control characters, trailing spaces and rows of blank lines; and what was changed.

    Applied again it changes nothing. Indentation stays, and so do the joiners that some scripts need.
    """
    # NFC comes after the removal: what is removed may have stood between a letter and its accent.
    visible = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    composed = unicodedata.normalize("NFC", visible)
    tidy = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", composed)).strip()
    steps = (("control-characters", text, visible), ("nfc", visible, composed), ("whitespace", composed, tidy))
    return tidy, tuple(name for name, before, after in steps if before != after)


def text_digest(text: str) -> bytes:
    """What makes two normalised texts the same document; 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


class Index:
    """What is known of all documents that passed the screen: the owners of each text, and which texts are held out.

    First `learn` all documents, then `settle`, then `decide` on each in the same order. A context manager; texts'
    digests and owners lie in an SQLite file, so memory stays bounded.
    """

    def __init__(self, path: Path, heldout_fraction: float) -> None:
        self.path, self.heldout_fraction = path, heldout_fraction
        self._first: dict[str, bytes] = {}
        """Smallest digest of each language that has enough documents."""

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self.path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("CREATE TABLE text (digest BLOB PRIMARY KEY, language TEXT) WITHOUT ROWID")
        self._database.execute(
            "CREATE TABLE owner (digest BLOB, owner TEXT, licence TEXT, "
            "PRIMARY KEY (digest, owner, licence)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE cluster (digest BLOB PRIMARY KEY, representative BLOB) WITHOUT ROWID")
        self._database.execute("CREATE TABLE kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction: the file is scratch, and each commit would write pages
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self.path.unlink(missing_ok=True)

    def learn(self, document: Document) -> bool:
        """First pass; whether the text is new."""
        digest = text_digest(document.text)
        row = (digest, document.language)
        is_new = self._database.execute("INSERT OR IGNORE INTO text VALUES (?, ?)", row).rowcount == 1
        self._database.executemany(
            "INSERT OR IGNORE INTO owner VALUES (?, ?, ?)",
            [(digest, owner, document.licence) for owner in document.owners],
        )
        return is_new

    def settle(self, clusters: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Between the passes: the digest of each near duplicate, with that of the text which stands for its cluster."""
        self._database.executemany("INSERT INTO cluster VALUES (?, ?)", clusters)
        self._database.execute(
            "INSERT OR IGNORE INTO owner SELECT representative, owner, licence FROM cluster JOIN owner USING (digest)"
        )
        counts = (
            "SELECT language, MIN(digest) FROM text LEFT JOIN cluster USING (digest) "
            "WHERE representative IS NULL OR representative = digest GROUP BY language HAVING COUNT(*) >= ?"
        )
        self._first = dict(self._database.execute(counts, (MIN_FOR_HELDOUT,)))

    def decide(self, document: Document) -> tuple[Document, str]:
        """Second pass: the document with all its owners, and `train`, `heldout`, or the reason why it is rejected."""
        digest = text_digest(document.text)
        find = "SELECT representative FROM cluster WHERE digest = ?"
        representative: bytes = (self._database.execute(find, (digest,)).fetchone() or (digest,))[0]
        document = replace(document, cluster_id=representative.hex()[:CLUSTER_ID_CHARS])
        if representative != digest:
            return document, "near duplicate"
        if self._database.execute("INSERT OR IGNORE INTO kept VALUES (?)", (digest,)).rowcount == 0:
            return document, "duplicate"
        rows = self._database.execute("SELECT owner, licence FROM owner WHERE digest = ?", (digest,)).fetchall()
        if len(rows) > 1:
            owners = tuple(sorted({owner for owner, _ in rows}))
            licence = _all_of(sorted({licence for _, licence in rows}))
            transforms = (*document.transforms, "owners-merged")
            document = replace(document, owners=owners, licence=licence, transforms=transforms)
        return document, "heldout" if self._is_heldout(digest, document.language) else "train"

    def split_of(self, text: str, language: str) -> str | None:
        """Where the document with this text, as it is kept, went: `train`, `heldout`, or None when there is none."""
        digest = text_digest(text)
        if self._database.execute("SELECT 1 FROM kept WHERE digest = ?", (digest,)).fetchone() is None:
            return None
        return "heldout" if self._is_heldout(digest, language) else "train"

    def _is_heldout(self, digest: bytes, language: str) -> bool:
        return digest == self._first.get(language) or int.from_bytes(digest[:8]) < self.heldout_fraction * 2**64


def _all_of(licences: list[str]) -> str:
    """The SPDX expression that keeps every licence's terms."""
    if len(licences) == 1:
        return licences[0]
    return " AND ".join(f"({licence})" if " OR " in licence else licence for licence in licences)
