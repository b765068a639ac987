"""A dataset's tree over a few documents, with all that is needed to issue proofs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sovereign.lake import commitments as c
from sovereign.lake.commitments import DatasetKeys, commit_key
from sovereign.lake.dataset import Entry
from sovereign.lake.documents import Document
from sovereign.lake.leaves import Leaves, Row, build_leaves
from sovereign.lake.merkle import make_path, tree_hash
from sovereign.lake.proofs import Anchor, Inclusion, Leaf, Proof, normal_digest, prove

DATASET_KEY = bytes(range(32))
FILES = {"train-00000.parquet": "ab" * 32}


def document(number: int) -> Document:
    """The document with this number; its owner is one of three."""
    return Document(
        doc_id=f"gazette/{number}.txt",
        text=f"Notice number {number}.",
        language="en",
        source="gazette",
        owners=(f"Office {number % 3}",),
        licence="CC-BY-4.0",
        collected_at=None,
        quality=number / 7 or None,
    )


class Tree:
    """The tree of some documents under a dataset key."""

    def __init__(
        self, folder: Path, documents: Sequence[Document], dataset_key: bytes = DATASET_KEY, name: str = "test"
    ) -> None:
        self.documents = documents
        self.keys = DatasetKeys.derive(dataset_key, name, FILES)
        path = folder / "leaves.sqlite"
        rows = (Row(self.keys.leaf(one, "train"), 0, row) for row, one in enumerate(documents))
        build_leaves(path, rows)
        self.leaves = Leaves(path)
        self.anchor = Anchor(
            dataset=name,
            size=self.leaves.size,
            root=self.leaves.root().hex(),
            key_commitment=commit_key(self.keys.openings).hex(),
        )

    def fetch(self, file: int, row: int) -> Entry:
        return Entry(self.documents[row], file, row, "train")

    def prove(self, text: str, *, open_key: bool = False) -> Proof:
        return prove(self.anchor, self.leaves, self.keys, normal_digest(text), self.fetch, open_key=open_key)


def forge(
    text: str, records: Sequence[Mapping[str, Any]], name: str = "test", *, open_key: bool = False
) -> tuple[Anchor, list[Inclusion]]:
    """What a maker can publish who keeps to no rule: records of his own, one leaf each, all of one text."""
    keys, digest = DatasetKeys(bytes(32), bytes(32)), normal_digest(text)
    opened = keys.opening(digest)
    key = c.leaf_key(opened, digest)
    whole = [{**record, "text_sha256": digest.hex()} for record in records]
    salts = [keys.salt(c.encode_record(record)) for record in whole]
    made = [key + c.commit(salt, c.encode_record(record)) for salt, record in zip(salts, whole, strict=True)]
    leaves = sorted(made)
    root = c.make_root(len(leaves), tree_hash(leaves)).hex()
    proofs = []
    for record, salt, leaf in zip(whole, salts, made, strict=True):
        index = leaves.index(leaf)
        path = make_path(index, len(leaves), lambda start, end: tree_hash(leaves[start:end]))
        proofs.append(
            Inclusion(
                dataset=name,
                size=len(leaves),
                root=root,
                text_sha256=digest.hex(),
                opening=opened.hex(),
                key=key.hex(),
                openings_key=keys.openings.hex() if open_key else None,
                record=record,
                salt=salt.hex(),
                leaf=Leaf(
                    index=index, key=key.hex(), commitment=leaf[c.KEY_BYTES :].hex(), path=[one.hex() for one in path]
                ),
            )
        )
    commitment = commit_key(keys.openings).hex()
    return Anchor(dataset=name, size=len(leaves), root=root, key_commitment=commitment), proofs
