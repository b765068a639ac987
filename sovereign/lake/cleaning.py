"""Cleaning: normalisation, length rules, exact duplicates, and which documents are kept for evaluation."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sovereign.lake.documents import Document
from sovereign.profile import Cleaning

MIN_FOR_HELDOUT = 20
"""A language with at least so many documents has at least one held out."""

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


@dataclass
class _Language:
    count: int = 0
    first: bytes = b"\xff" * 32
    """Smallest digest."""


class Index:
    """What the first pass learns of all documents: owners of each text, and the smallest digest in each language.

    A context manager; texts' digests and owners lie in an SQLite file, so memory stays bounded.
    """

    def __init__(self, path: Path, rules: Cleaning) -> None:
        self.path, self.rules = path, rules
        self._languages: dict[str, _Language] = {}

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self.path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE owner (digest BLOB, owner TEXT, licence TEXT, "
            "PRIMARY KEY (digest, owner, licence)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction: the file is scratch, and each commit would write pages
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self.path.unlink(missing_ok=True)

    def learn(self, document: Document) -> None:
        """First pass."""
        text, _ = normalise(document.text)
        if self._length_reason(text) is not None:
            return
        digest = text_digest(text)
        with closing(self._database.execute("SELECT 1 FROM owner WHERE digest = ? LIMIT 1", (digest,))) as found:
            is_new = found.fetchone() is None
        self._database.executemany(
            "INSERT OR IGNORE INTO owner VALUES (?, ?, ?)",
            [(digest, owner, document.licence) for owner in document.owners],
        )
        if is_new:
            language = self._languages.setdefault(document.language, _Language())
            language.count += 1
            language.first = min(language.first, digest)

    def clean(self, document: Document) -> tuple[Document, str]:
        """Second pass: the cleaned document and where it goes: `train`, `heldout`, or the reason why it is rejected."""
        text, changes = normalise(document.text)
        cleaned = replace(document, text=text, transforms=(*document.transforms, *changes))
        reason = self._length_reason(text)
        if reason:
            return cleaned, reason
        digest = text_digest(text)
        if self._database.execute("INSERT OR IGNORE INTO kept VALUES (?)", (digest,)).rowcount == 0:
            return cleaned, "duplicate"
        rows = self._database.execute("SELECT owner, licence FROM owner WHERE digest = ?", (digest,)).fetchall()
        owners = tuple(sorted({owner for owner, _ in rows}))
        licences = sorted({licence for _, licence in rows})
        if len(rows) > 1:
            cleaned = replace(
                cleaned, owners=owners, licence=_all_of(licences), transforms=(*cleaned.transforms, "owners-merged")
            )
        return cleaned, "heldout" if self._is_heldout(digest, document.language) else "train"

    def split_of(self, text: str, language: str) -> str | None:
        """Where the document with this text went: `train`, `heldout`, or None when there is none."""
        digest = text_digest(normalise(text)[0])
        if self._database.execute("SELECT 1 FROM kept WHERE digest = ?", (digest,)).fetchone() is None:
            return None
        return "heldout" if self._is_heldout(digest, language) else "train"

    def _length_reason(self, text: str) -> str | None:
        if not text:
            return "empty"
        if len(text) < self.rules.min_chars:
            return "too short"
        return "too long" if len(text) > self.rules.max_chars else None

    def _is_heldout(self, digest: bytes, language: str) -> bool:
        known = self._languages.get(language, _Language())
        if known.count >= MIN_FOR_HELDOUT and digest == known.first:
            return True
        return int.from_bytes(digest[:8]) < self.rules.heldout_fraction * 2**64


def _all_of(licences: list[str]) -> str:
    """The SPDX expression that keeps every licence's terms."""
    if len(licences) == 1:
        return licences[0]
    return " AND ".join(f"({licence})" if " OR " in licence else licence for licence in licences)
