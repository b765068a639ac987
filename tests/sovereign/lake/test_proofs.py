"""Proofs hold for what is true, and nothing else passes: no flipped bit, no other tree, no shortened way."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign.errors import ProofError
from sovereign.files import sha256_bytes
from sovereign.lake import commitments as c
from sovereign.lake.proofs import (
    TREE_TYPE,
    Anchor,
    Exclusion,
    Inclusion,
    Leaf,
    Proof,
    check,
    confirm,
    normal_digest,
    read_anchor,
    read_proof,
    write_proof,
)
from tests.sovereign.lake.tree import Tree, document, forge

ABSENT = [f"Another notice, {number}." for number in range(30)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"), [document(number) for number in range(21)])


def refused(proof: Proof, anchor: Anchor) -> str:
    """The reason why `proof` is refused after it was written and read."""
    with pytest.raises(ProofError) as caught:
        check(read_proof(write_proof(proof)), anchor)
    return caught.value.message


def inclusion(tree: Tree, number: int = 5, *, open_key: bool = False) -> Inclusion:
    proof = tree.prove(document(number).text, open_key=open_key)
    assert isinstance(proof, Inclusion)
    return proof


def inner_exclusion(tree: Tree, *, open_key: bool = False) -> tuple[Exclusion, Leaf, Leaf]:
    """An exclusion between two leaves."""
    for text in ABSENT:
        proof = tree.prove(text, open_key=open_key)
        assert isinstance(proof, Exclusion)
        if proof.before is not None and proof.after is not None:
            return proof, proof.before, proof.after
    raise AssertionError("no such text")


@pytest.mark.parametrize("size", [*range(18), 31, 32, 33])
def test_what_is_true_is_proven_in_trees_of_every_shape(size: int, tmp_path: Path) -> None:
    tree = Tree(tmp_path, [document(number) for number in range(size)])
    for number in range(size + 10):
        proof = tree.prove(f"  Notice number {number}.\r\n", open_key=bool(number % 2))
        again = read_proof(write_proof(proof))
        assert again == proof
        check(again, tree.anchor)
        assert proof.kind == ("inclusion" if number < size else "exclusion")
        assert proof.text_sha256 == sha256_bytes(document(number).text.encode())
        if isinstance(proof, Inclusion):
            assert proof.record["doc_id"] == f"gazette/{number}.txt"


def test_ends_and_middle_of_the_order_occur(tree: Tree, tmp_path: Path) -> None:
    small = Tree(tmp_path, [document(1)])
    proofs = [small.prove(text) for text in ABSENT]
    kinds = {(proof.before is None, proof.after is None) for proof in proofs if isinstance(proof, Exclusion)}
    assert kinds == {(True, False), (False, True)}
    assert inner_exclusion(tree)[1].index + 1 == inner_exclusion(tree)[2].index


@pytest.mark.parametrize("open_key", [False, True])
@pytest.mark.parametrize("make", [inclusion, lambda *a, **k: inner_exclusion(*a, **k)[0]], ids=["in", "not in"])
def test_no_bit_of_a_proof_can_be_flipped(tree: Tree, make: Callable[..., Proof], open_key: bool) -> None:
    data = write_proof(make(tree, open_key=open_key))
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        with pytest.raises(ProofError):
            check(read_proof(bytes(changed)), tree.anchor)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.integers(0, 40), field=st.sampled_from(["root", "size", "dataset", "key_commitment"]), data=st.data())
def test_no_bit_of_what_the_manifest_says_can_be_flipped(
    tree: Tree, number: int, field: str, data: st.DataObject
) -> None:
    """The key's commitment decides only where the key is shown."""
    proof = tree.prove(document(number).text, open_key=True)
    value = getattr(tree.anchor, field)
    if field == "dataset":
        changed: object = value + data.draw(st.text(min_size=1))
    elif field == "size":
        changed = value ^ 1 << data.draw(st.integers(0, 50))
    else:
        changed = f"{int(value, 16) ^ 1 << data.draw(st.integers(0, 255)):064x}"
    with pytest.raises(ProofError):
        check(proof, tree.anchor.model_copy(update={field: changed}))


@given(data=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_anything_else_than_a_proof_is_refused(data: bytes) -> None:
    with pytest.raises(ProofError):
        read_proof(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: json.dumps(json.loads(data), indent=1).encode(),
        lambda data: data.replace(b'"dataset":"test"', b'"dataset":"other","dataset":"test"'),
        lambda data: data.replace(b'"size":21', b'"size":21.0'),
        lambda data: data.replace(b'"size":21', b'"size":"21"'),
        lambda data: data.replace(b'"size":21', b'"size":-21'),
        lambda data: data.replace(b'"size":21', b'"size":' + b"9" * 5000),
        lambda data: data.replace(b'"size":21', b'"more":1,"size":21'),
        lambda data: data.replace(b'"record":{', b'"record":{"a":NaN,'),
        lambda data: data.replace(b'"record":{', b'"record":{"a":"\\ud800",'),
        lambda data: data.replace(b'"record":{', b'"record":{"a":' + b"[" * 900 + b"]" * 900 + b","),
        lambda data: data.replace(b'"record":{', b'"record":{"a":' + b"[" * 99_000 + b"]" * 99_000 + b","),
        lambda data: data.replace(b"proof/v1", b"proof/v2"),
        lambda data: data.replace(b'"kind":"inclusion"', b'"kind":"exclusion"'),
    ],
)
def test_other_bytes_for_a_proof_are_refused(tree: Tree, change: Callable[[bytes], bytes]) -> None:
    changed = change(write_proof(inclusion(tree)))
    assert changed != write_proof(inclusion(tree))
    with pytest.raises(ProofError):
        check(read_proof(changed), tree.anchor)


def test_a_proof_of_another_tree_is_refused(tree: Tree, tmp_path: Path) -> None:
    same = [document(number) for number in range(21)]
    others = {"key": Tree(tmp_path, same, bytes(32)), "fewer": Tree(tmp_path / "a", same[:20])}
    others |= {"more": Tree(tmp_path / "b", [*same, document(99)]), "name": Tree(tmp_path / "c", same, name="other")}
    for other in others.values():
        for proof in (inclusion(other), inner_exclusion(other)[0]):
            assert "of another dataset" in refused(proof, tree.anchor)
            changes = {"dataset": tree.anchor.dataset, "size": tree.anchor.size, "root": tree.anchor.root}
            assert refused(proof.model_copy(update=changes), tree.anchor)


def test_wrong_sizes_are_refused_even_where_the_path_fits(tmp_path: Path) -> None:
    """The first leaf's path has two steps in trees of 3 and of 4 leaves; the root tells them apart."""
    tree = Tree(tmp_path, [document(number) for number in range(4)])
    number = next(number for number in range(4) if inclusion(tree, number).leaf.index == 0)
    proof = inclusion(tree, number)
    assert len(proof.leaf.path) == 2
    smaller = {"size": 3}
    problem = refused(proof.model_copy(update=smaller), tree.anchor.model_copy(update=smaller))
    assert problem == "the path does not lead to the root"


@pytest.mark.parametrize(
    "change",
    [
        lambda leaf: {"path": leaf.path[:-1]},
        lambda leaf: {"path": leaf.path[1:]},
        lambda leaf: {"path": [*leaf.path, leaf.path[0]]},
        lambda leaf: {"path": leaf.path[::-1]},
        lambda leaf: {"path": [leaf.path[1], leaf.path[0], *leaf.path[2:]]},
        lambda leaf: {"index": leaf.index ^ 1},
        lambda leaf: {"index": 2**50},
        lambda leaf: {"commitment": leaf.key},
    ],
)
def test_shortened_reordered_and_moved_paths_are_refused(tree: Tree, change: Callable[[Leaf], dict[str, Any]]) -> None:
    proof = inclusion(tree)
    assert refused(proof.model_copy(update={"leaf": proof.leaf.model_copy(update=change(proof.leaf))}), tree.anchor)
    absent, before, after = inner_exclusion(tree)
    for name, leaf in (("before", before), ("after", after)):
        changed = leaf.model_copy(update=change(leaf))
        assert refused(absent.model_copy(update={name: changed}), tree.anchor)


@pytest.mark.parametrize(
    ("column", "value"),
    [("owners", ["Office 0"]), ("licence", "CC0-1.0"), ("doc_id", "x"), ("split", "heldout"), ("url", "x")],
)
def test_another_record_is_refused(tree: Tree, column: str, value: object) -> None:
    proof = inclusion(tree)
    changed = proof.model_copy(update={"record": {**proof.record, column: value}})
    assert refused(changed, tree.anchor) == "the record is not the committed one"


@pytest.mark.parametrize(
    "change",
    [
        {"manifest_sha256": "0" * 64},
        {"more": 1},
        {"\n  rests_on": "somebody"},
        {"owners": None},
        {"owners": "Office 1"},
        {"owners": [1]},
        {"licence": {"a": "b"}},
        {"split": "rejected"},
        {"quality": "1"},
        {"quality": True},
        {"url": None},
    ],
)
def test_a_committed_record_has_a_documents_columns_and_nothing_else(change: dict[str, object]) -> None:
    """Also where the maker committed to it: what `check` shows beside it must not be taken for checked."""
    record = c.make_record(document(5), "train")
    anchor, (proof,) = forge(document(5).text, [record])
    check(read_proof(write_proof(proof)), anchor)
    anchor, (proof,) = forge(document(5).text, [record | change])
    assert refused(proof, anchor) == "the record has not a document's columns"
    for name in record.keys() - {"text_sha256"}:
        anchor, (proof,) = forge(document(5).text, [{key: value for key, value in record.items() if key != name}])
        assert refused(proof, anchor) == "the record has not a document's columns"


def test_no_error_has_a_control_character_of_the_file(tree: Tree) -> None:
    hostile = "x\n\x1b[31m\u202e"
    data = write_proof(inclusion(tree))
    changes = [(b'"kind":"inclusion"', {"kind": hostile}), (b'"dataset":"test"', {"dataset": hostile})]
    texts = [data.replace(old, json.dumps(new, ensure_ascii=False).encode()[1:-1]) for old, new in changes]
    texts.append(json.dumps({**json.loads(data), hostile: 1}, ensure_ascii=False).encode())
    for text in texts:
        with pytest.raises(ProofError) as caught:
            read_proof(text)
        assert str(caught.value).replace("\n  got", " got").isprintable()
    anchor, (proof,) = forge(document(5).text, [{**c.make_record(document(5), "train"), hostile: 1}])
    with pytest.raises(ProofError) as caught:
        check(proof, anchor)
    assert str(caught.value).replace("\n  got", " got").isprintable()
    for name, algorithm in ((hostile, TREE_TYPE), ("test", hostile)):
        terms = {"sovereign:algorithm": algorithm, "sovereign:size": 1, "sovereign:root": anchor.root}
        terms["sovereign:keyCommitment"] = anchor.key_commitment
        with pytest.raises(ProofError) as caught:
            read_anchor(json.dumps({"name": name, "sovereign:commitments": terms}).encode())
        assert re.sub(r"\n  (got|expected):", "", str(caught.value)).isprintable()


def test_a_record_is_not_passed_off_as_another_texts(tree: Tree) -> None:
    proof, other = inclusion(tree, 5), inclusion(tree, 6)
    wanted = {"text_sha256": other.text_sha256}
    assert refused(proof.model_copy(update=wanted), tree.anchor) == "the leaf key is not this text's"
    wanted |= {"opening": other.opening, "key": other.key}
    assert refused(proof.model_copy(update=wanted), tree.anchor) == "the record is of another text"
    wanted["record"] = other.record  # type: ignore[assignment]
    assert refused(proof.model_copy(update=wanted), tree.anchor) == "the leaf is another text's"


def test_a_document_that_is_in_cannot_be_shown_to_be_out(tree: Tree) -> None:
    """With the leaves beside it, with the leaf itself, with one of them left out."""
    total = tree.leaves.size
    for number in range(total):
        proof = inclusion(tree, number)
        here = proof.leaf
        near: dict[int, Leaf] = {}
        for other in range(total):
            one = inclusion(tree, other).leaf
            near[one.index] = one
        common = {name: getattr(proof, name) for name in ("dataset", "size", "root", "text_sha256", "opening", "key")}
        for before, after in itertools.product([None, *near.values()], repeat=2):
            forged = Exclusion(**common, openings_key=None, before=before, after=after)
            assert refused(forged, tree.anchor) in {
                "the leaves are not neighbours",
                "the text's leaf key does not lie between the two leaves",
            }
        assert here in near.values()


def test_an_end_that_is_none_is_refused(tree: Tree) -> None:
    proof, before, after = inner_exclusion(tree)
    for changes in ({"before": None}, {"after": None}, {"before": None, "after": None}, {"before": after}):
        assert refused(proof.model_copy(update=changes), tree.anchor) == "the leaves are not neighbours"
    moved = {"before": None, "after": after.model_copy(update={"index": 0})}
    assert refused(proof.model_copy(update=moved), tree.anchor) == "the path does not lead to the root"
    empty = {"before": None, "after": None, "size": 0}
    forged = refused(proof.model_copy(update=empty), tree.anchor.model_copy(update={"size": 0}))
    assert forged == "the tree is not empty"
    assert before.index + 1 == after.index


def test_a_made_up_opening_passes_only_where_the_key_is_not_shown(tree: Tree) -> None:
    """What a proof of exclusion without the key is: the issuer's word. docs/datasets.md says so."""
    present = document(5).text
    digest = normal_digest(present)
    proof, before, after = inner_exclusion(tree, open_key=True)
    openings = (number.to_bytes(32) for number in itertools.count())
    opened = next(one for one in openings if before.key < c.leaf_key(one, digest).hex() < after.key)
    made_up = {"text_sha256": digest.hex(), "opening": opened.hex(), "key": c.leaf_key(opened, digest).hex()}
    assert refused(proof.model_copy(update=made_up), tree.anchor) == "the opening is not the text's"
    check(proof.model_copy(update={**made_up, "openings_key": None}), tree.anchor)


def test_an_opening_is_confirmed_or_refuted_by_the_key(tree: Tree) -> None:
    """Of a proof that was issued without it, once another proof shows it."""
    absent, before, after = inner_exclusion(tree)
    auditors: list[Proof] = [inclusion(tree, 7, open_key=True), inner_exclusion(tree, open_key=True)[0]]
    issued: list[Proof] = [absent, *(inclusion(tree, number) for number in range(21))]
    for proof, other in itertools.product(issued, auditors):
        assert confirm(proof, other, tree.anchor) == proof.model_copy(update={"openings_key": other.openings_key})
    digest = normal_digest(document(5).text)
    openings = (number.to_bytes(32) for number in itertools.count())
    opened = next(one for one in openings if before.key < c.leaf_key(one, digest).hex() < after.key)
    made_up = {"text_sha256": digest.hex(), "opening": opened.hex(), "key": c.leaf_key(opened, digest).hex()}
    forged = absent.model_copy(update=made_up)
    check(forged, tree.anchor)
    with pytest.raises(ProofError, match="the opening is not the text's"):
        confirm(forged, auditors[0], tree.anchor)
    with pytest.raises(ProofError, match="should show the key does not"):
        confirm(absent, inclusion(tree), tree.anchor)
    wrong = auditors[0].model_copy(update={"openings_key": "00" * 32})
    with pytest.raises(ProofError, match="shows the key does not hold: the key is not the manifest's"):
        confirm(absent, wrong, tree.anchor)


def test_two_records_of_one_text_pass_alone_and_refute_each_other() -> None:
    """What one proof of inclusion does not tell: whether the maker has another leaf of the text."""
    records = [c.make_record(replace(document(5), owners=(owner,)), "train") for owner in ("Archive", "Office")]
    anchor, (one, other) = forge(document(5).text, records, open_key=True)
    for proof in (one, other):
        check(read_proof(write_proof(proof)), anchor)
        assert confirm(proof, proof, anchor) == proof
    for pair in ((one, other), (other, one)):
        with pytest.raises(ProofError, match="refute each other"):
            confirm(*pair, anchor)


def test_another_key_is_refused(tree: Tree) -> None:
    proof = inclusion(tree, open_key=True)
    assert proof.openings_key == tree.keys.openings.hex()
    assert refused(proof.model_copy(update={"openings_key": "00" * 32}), tree.anchor) == "the key is not the manifest's"


def test_a_proof_says_nothing_of_other_documents(tree: Tree) -> None:
    """No text, owner, name or bare digest of another one, and nothing that opens the leaves beside it."""
    for number in (5, 1000):
        text = write_proof(tree.prove(document(number).text)).decode()
        for other in (document(index) for index in range(21) if index != number):
            record = c.encode_record(c.make_record(other, "train"))
            hidden = [other.text, other.doc_id, sha256_bytes(other.text.encode()), sha256_bytes(record)]
            hidden += [tree.keys.salt(record).hex(), tree.keys.opening(normal_digest(other.text)).hex()]
            if number == 1000:
                hidden += other.owners
            assert [one for one in hidden if one in text] == []
        for secret in (tree.keys.openings, tree.keys.salts):
            assert secret.hex() not in text


def test_what_is_no_manifest_is_refused(tree: Tree) -> None:
    def manifest(**changes: object) -> bytes:
        terms = {"algorithm": TREE_TYPE, "size": 21, "root": tree.anchor.root, "keyCommitment": "ab" * 32} | changes
        return json.dumps(
            {"name": "test", "sovereign:commitments": {f"sovereign:{k}": v for k, v in terms.items()}}
        ).encode()

    assert read_anchor(manifest()).root == tree.anchor.root
    wrong = [b"", b"[]", b"{}", b"\xff", b"[" * 99_000, manifest(algorithm="another"), manifest(size="21")]
    wrong += [manifest(root=tree.anchor.root.upper()), manifest(root=tree.anchor.root + "\n"), manifest(size=-1)]
    for content in wrong:
        with pytest.raises(ProofError):
            read_anchor(content)
