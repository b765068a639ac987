"""Proofs that a document is in a dataset, or that a text is not: issued from the leaves and keys, checked by anyone.

A proof is one line of canonical JSON. It is checked against the dataset's manifest, offline. docs/datasets.md says
what is proven, what must be trusted, and what a proof tells whoever reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sovereign.errors import ProofError
from sovereign.lake import commitments as c
from sovereign.lake.cleaning import normalise, text_digest
from sovereign.lake.dataset import Entry
from sovereign.lake.leaves import Leaves
from sovereign.lake.merkle import follow_path, tree_hash
from sovereign.receipts import parse_number
from sovereign.section import Name

TREE_TYPE = "https://sovereign.local/tree/v1"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Anchor(_Part):
    """What a manifest says of its tree; all that a check needs of it."""

    dataset: Name
    size: Count
    root: Hex
    key_commitment: Hex


class _Record(_Part):
    """The columns that are committed to, as `sovereign.lake.commitments.make_record` gives them."""

    doc_id: str
    language: str
    source: str
    owners: list[str]
    licence: str
    collected_at: str | None
    quality: float | None
    cluster_id: str | None
    transforms: list[str]
    split: Literal["train", "heldout"]
    text_sha256: Hex
    url: str = ""
    """Not there where the document has none."""


class Leaf(_Part):
    """A leaf with its way to the root."""

    index: Count
    """Place in the order of leaf keys, from 0."""
    key: Hex
    commitment: Hex
    path: list[Hex]
    """Hashes of the subtrees beside the way, the nearest first."""


class _Proof(_Part):
    type: Literal["https://sovereign.local/proof/v1"] = "https://sovereign.local/proof/v1"
    dataset: Name
    """Name of the dataset."""
    size: Count
    """Number of its documents."""
    root: Hex
    """Root of its tree."""
    text_sha256: Hex
    """The text that the proof is about, as UTF-8 after cleaning's normalisation."""
    opening: Hex
    """Opens the leaf key of this text."""
    key: Hex
    """The leaf key: SHA-256(tag ‖ opening ‖ text_sha256)."""
    openings_key: Hex | None
    """Key from which the openings of all texts follow, for auditors; null: not shown."""


class Inclusion(_Proof):
    """A document with this text is in the dataset."""

    kind: Literal["inclusion"] = "inclusion"
    record: dict[str, Any]
    """The document's columns, without its text."""
    salt: Hex
    """Of the commitment to the record."""
    leaf: Leaf


class Exclusion(_Proof):
    """No document with this text is in the dataset: its leaf key lies between two leaves that are neighbours."""

    kind: Literal["exclusion"] = "exclusion"
    before: Leaf | None
    """The leaf before; null: it would be the first."""
    after: Leaf | None
    """The leaf after; null: it would be the last."""


Proof = Inclusion | Exclusion
_READER: TypeAdapter[Proof] = TypeAdapter(Annotated[Proof, Field(discriminator="kind")])


def read_anchor(manifest: bytes) -> Anchor:
    """What the manifest says of its tree.

    Raises:
        ProofError: it says nothing, or not in this version's words.
    """
    try:
        content = json.loads(manifest)
        tree = content["sovereign:commitments"]
        if (kind := tree["sovereign:algorithm"]) != TREE_TYPE:
            raise ProofError("the tree is of an unknown kind", got=ascii(kind), expected=TREE_TYPE)
        return Anchor(
            dataset=content["name"],
            size=tree["sovereign:size"],
            root=tree["sovereign:root"],
            key_commitment=tree["sovereign:keyCommitment"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        got = _first(error) if isinstance(error, ValidationError) else ascii(str(error))
        raise ProofError(f"not a dataset's manifest: {type(error).__name__}", got=got) from error


def read_proof(data: bytes) -> Proof:
    """Read a proof, which has one form only: the bytes that `write_proof` makes.

    Raises:
        ProofError: damaged, of another version, or with other bytes for the same content.
    """
    try:
        proof = _READER.validate_python(json.loads(data, parse_int=parse_number))
        canonical = write_proof(proof)
    except ValidationError as error:
        raise ProofError("not a proof of this version", got=_first(error)) from error
    except (ValueError, RecursionError) as error:
        raise ProofError(f"not a proof: {error}") from error
    if canonical != data:
        raise ProofError("the proof is not in canonical form", hint="use the file as `sovereign lake prove` wrote it")
    return proof


def write_proof(proof: Proof) -> bytes:
    """The proof's bytes: canonical JSON (RFC 8785) and a line end.

    Raises:
        ProofError: a value of the record that canonical JSON has not.
    """
    try:
        return rfc8785.dumps(proof.model_dump()) + b"\n"
    except rfc8785.CanonicalizationError as error:
        raise ProofError(f"not a proof: {error}") from error


def normal_digest(text: str) -> bytes:
    """SHA-256 of the text as a dataset would have it."""
    return text_digest(normalise(text)[0])


def prove(
    anchor: Anchor,
    leaves: Leaves,
    keys: c.DatasetKeys,
    digest: bytes,
    fetch: Callable[[int, int], Entry],
    *,
    open_key: bool = False,
) -> Proof:
    """Prove that the text with SHA-256 `digest` is in the dataset or is not, whichever is true.

    Args:
        anchor: of the manifest that the proof is for.
        fetch: gives the document in a file and row.
        open_key: show the key of all openings, so that the reader need not trust the opening.

    Raises:
        ProofError: the leaves are not those of the manifest.
    """
    opened = keys.opening(digest)
    key = c.leaf_key(opened, digest)
    common: dict[str, Any] = {
        "dataset": anchor.dataset,
        "size": anchor.size,
        "root": anchor.root,
        "text_sha256": digest.hex(),
        "opening": opened.hex(),
        "key": key.hex(),
        "openings_key": keys.openings.hex() if open_key else None,
    }
    index = leaves.bisect(key)
    if index < leaves.size and (found := leaves[index]).leaf.startswith(key):
        entry = fetch(found.file, found.row)
        record = c.make_record(entry.document, entry.split)
        salt = keys.salt(c.encode_record(record))
        leaf = _leaves(leaves, [index])[index]
        proof: Proof = Inclusion(**common, record=record, salt=salt.hex(), leaf=leaf)
    else:
        near = _leaves(leaves, [place for place in (index - 1, index) if 0 <= place < leaves.size])
        proof = Exclusion(**common, before=near.get(index - 1), after=near.get(index))
    try:
        check(proof, anchor)
    except ProofError as error:
        raise ProofError("the leaves are not those of the manifest", got=error.message) from error
    return proof


def _leaves(leaves: Leaves, indices: list[int]) -> dict[int, Leaf]:
    found = {}
    for index, path in zip(indices, leaves.paths(indices), strict=True):
        leaf = leaves[index].leaf
        key, commitment = leaf[: c.KEY_BYTES].hex(), leaf[c.KEY_BYTES :].hex()
        found[index] = Leaf(index=index, key=key, commitment=commitment, path=[step.hex() for step in path])
    return found


def check(proof: Proof, anchor: Anchor) -> None:
    """Check a proof against what the dataset's manifest says.

    Raises:
        ProofError: it does not hold.
    """
    # (1) It is about this dataset: same name, size and root.
    for name in ("dataset", "size", "root"):
        _same(f"the proof is of another dataset: {name}", getattr(proof, name), getattr(anchor, name))
    # (2) The opening follows from the key that the manifest commits to, where that key is shown.
    digest, opened = bytes.fromhex(proof.text_sha256), bytes.fromhex(proof.opening)
    if proof.openings_key is not None:
        openings = bytes.fromhex(proof.openings_key)
        _same("the key is not the manifest's", c.commit_key(openings).hex(), anchor.key_commitment)
        _same("the opening is not the text's", proof.opening, c.opening(openings, digest).hex())
    # (3) The leaf key follows from text and opening.
    _same("the leaf key is not this text's", proof.key, c.leaf_key(opened, digest).hex())
    if isinstance(proof, Inclusion):
        _check_inclusion(proof)
    else:
        _check_exclusion(proof)


def confirm(proof: Proof, other: Proof, anchor: Anchor) -> Proof:
    """`proof` with the key that `other` shows, by which its opening is not its issuer's word any more.

    Args:
        proof: holds, as `check` tells.
        other: a proof of the same dataset, issued with the key.

    Raises:
        ProofError: `other` does not hold or shows no key, the opening does not follow from the key, or both cannot be
            true of one tree.
    """
    if other.openings_key is None:
        raise ProofError("the proof that should show the key does not", hint="sovereign lake prove … --open-key")
    try:
        check(other, anchor)
    except ProofError as error:
        raise ProofError(
            f"the proof that shows the key does not hold: {error.message}", got=error.got, expected=error.expected
        ) from error
    confirmed = proof.model_copy(update={"openings_key": other.openings_key})
    check(confirmed, anchor)
    shown = sorted({(leaf.index, leaf.key) for one in (proof, other) for leaf in _shown(one)})
    for (index, key), (later, its_key) in pairwise(shown):
        if key >= its_key:
            raise ProofError(
                "the two proofs refute each other: the tree's leaves are not in order",
                got=f"leaf keys {key} at {index} and {its_key} at {later}",
                expected="leaf keys that ascend, one for each text",
            )
    return confirmed


def _shown(proof: Proof) -> list[Leaf]:
    leaves = [proof.leaf] if isinstance(proof, Inclusion) else [proof.before, proof.after]
    return [leaf for leaf in leaves if leaf is not None]


def _check_inclusion(proof: Inclusion) -> None:
    # (4) The record has the committed columns and is of this text, and the leaf is of this key and this record.
    try:
        _Record.model_validate(proof.record)
    except ValidationError as error:
        raise ProofError("the record has not a document's columns", got=_first(error)) from error
    _same("the record is of another text", proof.record.get("text_sha256"), proof.text_sha256)
    _same("the leaf is another text's", proof.leaf.key, proof.key)
    commitment = c.commit(bytes.fromhex(proof.salt), c.encode_record(proof.record))
    _same("the record is not the committed one", proof.leaf.commitment, commitment.hex())
    # (5) The leaf leads to the root.
    _check_leaf(proof.leaf, proof)


def _check_exclusion(proof: Exclusion) -> None:
    before, after = proof.before, proof.after
    # (4) The leaves are neighbours, or the ends of the tree.
    expected = before.index + 1 if before is not None else 0
    _same("the leaves are not neighbours", after.index if after is not None else proof.size, expected)
    # (5) The leaf key lies between them.
    if (before is not None and before.key >= proof.key) or (after is not None and proof.key >= after.key):
        raise ProofError("the text's leaf key does not lie between the two leaves")
    # (6) Both lead to the root; where there is none, the tree is empty.
    for leaf in (before, after):
        if leaf is not None:
            _check_leaf(leaf, proof)
    if before is None and after is None:
        _same("the tree is not empty", proof.root, c.make_root(0, tree_hash(())).hex())


def _check_leaf(leaf: Leaf, proof: Proof) -> None:
    content = bytes.fromhex(leaf.key + leaf.commitment)
    tree = follow_path(content, leaf.index, proof.size, [bytes.fromhex(step) for step in leaf.path])
    _same("the path does not lead to the root", c.make_root(proof.size, tree).hex(), proof.root)


def _first(error: ValidationError) -> str:
    """What is wrong first, in ASCII without control characters: a file can have made up the name."""
    first = error.errors()[0]
    return ascii(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def _same(problem: str, got: object, expected: object) -> None:
    if got != expected:
        raise ProofError(problem, got=got, expected=expected)
