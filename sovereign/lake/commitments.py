"""Salted commitments to document records, and the keys by which a dataset's tree is sorted.

Everything secret follows from the site's dataset key by HMAC-SHA-256, so that its holder makes the same bytes again:

    salts, openings   HMAC(dataset key, tag ‖ dataset)   two keys for each version of a dataset
    salt              HMAC(salts, tag ‖ SHA-256(record))
    commitment        SHA-256(tag ‖ salt ‖ record)
    opening           HMAC(openings, tag ‖ SHA-256(text))
    leaf key          SHA-256(tag ‖ opening ‖ SHA-256(text))
    leaf              leaf key ‖ commitment
    root              SHA-256(tag ‖ number of leaves, 8 bytes ‖ Merkle tree hash of the leaves in ascending order)

`dataset` is the digest of the dataset's name and of its files' digests. A tag is `sovereign/lake/v1/…` and a zero byte;
all that follows it but the last part has a fixed length. A record is canonical JSON (RFC 8785) of a document's columns,
its text replaced by the text's SHA-256. Who sees a leaf learns nothing of the document without the salt or the opening.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import rfc8785

from sovereign.errors import ProofError
from sovereign.lake.cleaning import text_digest
from sovereign.lake.documents import Document

KEY_BYTES = 32
LEAF_BYTES = 64

_COLUMNS = [column.name for column in fields(Document) if column.name != "text"]


def _tag(name: str) -> bytes:
    return f"sovereign/lake/v1/{name}\0".encode()


def _hash(name: str, *parts: bytes) -> bytes:
    return hashlib.sha256(_tag(name) + b"".join(parts)).digest()


def _derive(key: bytes, name: str, digest: bytes) -> bytes:
    return hmac.digest(key, _tag(name) + digest, "sha256")


@dataclass(frozen=True)
class DatasetKeys:
    """The two secrets of one version of a dataset, 32 bytes each. Opening one says nothing of the other."""

    salts: bytes = field(repr=False)
    openings: bytes = field(repr=False)

    @classmethod
    def derive(cls, dataset_key: bytes, name: str, files: Mapping[str, str]) -> Self:
        """Args: `dataset_key`, the site's, 32 bytes; the dataset's name and the hex SHA-256 of its files by name."""
        if len(dataset_key) != KEY_BYTES:
            raise ProofError("the dataset key has a wrong length", got=len(dataset_key), expected=f"{KEY_BYTES} bytes")
        dataset = _hash("dataset", rfc8785.dumps({"name": name, "files": dict(files)}))
        return cls(_derive(dataset_key, "salts", dataset), _derive(dataset_key, "openings", dataset))

    def salt(self, record: bytes) -> bytes:
        """The salt of a record's commitment; 32 bytes."""
        return _derive(self.salts, "salt", hashlib.sha256(record).digest())

    def opening(self, digest: bytes) -> bytes:
        """What opens the leaf key of the text with this SHA-256; 32 bytes."""
        return opening(self.openings, digest)

    def leaf(self, document: Document, split: str) -> bytes:
        """The document's leaf; 64 bytes.

        Raises:
            ProofError: see `encode_record`.
        """
        digest = text_digest(document.text)
        record = encode_record(make_record(document, split))
        return leaf_key(self.opening(digest), digest) + commit(self.salt(record), record)


def opening(openings: bytes, digest: bytes) -> bytes:
    """What opens the leaf key of the text with SHA-256 `digest`, under the key `openings`; 32 bytes."""
    return _derive(openings, "opening", digest)


def leaf_key(opened: bytes, digest: bytes) -> bytes:
    """Where in the order the leaf of a text lies: from its opening and its SHA-256; 32 bytes."""
    return _hash("leaf-key", opened, digest)


def commit(salt: bytes, record: bytes) -> bytes:
    """The commitment to a record; 32 bytes."""
    return _hash("commitment", salt, record)


def commit_key(openings: bytes) -> bytes:
    """What a manifest publishes of the key `openings`, so that another one cannot be shown later; 32 bytes."""
    return _hash("key-commitment", openings)


def make_root(size: int, tree: bytes) -> bytes:
    """The root that is published: the tree hash bound to the number of leaves; 32 bytes."""
    return _hash("root", size.to_bytes(8), tree)


def make_record(document: Document, split: str) -> dict[str, Any]:
    """What is committed to: all columns of the document (`url` where it has one), its split, its text as SHA-256."""
    values = {name: getattr(document, name) for name in _COLUMNS}
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if document.url is None:
        del listed["url"]  # so that the record of a document without it is what it was before there was such a column
    return {**listed, "split": split, "text_sha256": text_digest(document.text).hex()}


def encode_record(record: Mapping[str, Any]) -> bytes:
    """The record's canonical bytes.

    Raises:
        ProofError: a value that canonical JSON has not, such as NaN.
    """
    try:
        return rfc8785.dumps(dict(record))
    except rfc8785.CanonicalizationError as error:
        raise ProofError(f"the record of {record.get('doc_id')} cannot be written: {error}") from error
