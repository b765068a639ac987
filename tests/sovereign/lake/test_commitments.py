"""Commitments and keys: as their description says, the same on every machine, and silent about the documents."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.errors import ProofError
from sovereign.lake.commitments import DatasetKeys, commit_key, encode_record, make_record, make_root
from sovereign.lake.documents import Document
from sovereign.lake.leaves import Leaves, Row, build_leaves
from sovereign.lake.merkle import tree_hash
from tests.sovereign.lake.tree import DATASET_KEY, FILES, Tree, document

KEYS = DatasetKeys.derive(DATASET_KEY, "test", FILES)


def tag(name: str) -> bytes:
    return b"sovereign/lake/v1/" + name.encode() + b"\0"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def test_a_leaf_is_what_the_description_says() -> None:
    """Made again here with nothing but SHA-256 and HMAC."""
    record = (
        b'{"cluster_id":null,"collected_at":null,"doc_id":"gazette/14.txt","language":"en","licence":"CC-BY-4.0",'
        b'"owners":["Office 2"],"quality":2,"source":"gazette","split":"train","text_sha256":"'
        + sha256(b"Notice number 14.").hex().encode()
        + b'","transforms":[]}'
    )
    dataset = sha256(tag("dataset") + b'{"files":{"train-00000.parquet":"' + b"ab" * 32 + b'"},"name":"test"}')
    salts, openings = mac(DATASET_KEY, tag("salts") + dataset), mac(DATASET_KEY, tag("openings") + dataset)
    commitment = sha256(tag("commitment") + mac(salts, tag("salt") + sha256(record)) + record)
    digest = sha256(b"Notice number 14.")
    key = sha256(tag("leaf-key") + mac(openings, tag("opening") + digest) + digest)
    assert KEYS.leaf(document(14), "train") == key + commitment
    assert commit_key(KEYS.openings) == sha256(tag("key-commitment") + openings)
    assert make_root(300, bytes(32)) == sha256(tag("root") + b"\0\0\0\0\0\0\x01\x2c" + bytes(32))


def test_the_root_of_a_known_dataset_is_known(tmp_path: Path) -> None:
    """The same bytes on every machine; when this changes, proofs that were issued before no longer hold."""
    root = Tree(tmp_path, [document(number) for number in range(100)]).anchor.root
    assert root == "6242310af631dda9f14acdcce83a41e7fc86e0cf52c7c84962321b8330d3d38c"


def test_order_of_documents_does_not_matter(tmp_path: Path) -> None:
    documents = [document(number) for number in range(50)]
    (tmp_path / "backwards").mkdir()
    assert Tree(tmp_path, documents).anchor == Tree(tmp_path / "backwards", documents[::-1]).anchor


@pytest.mark.parametrize(
    "other",
    [
        DatasetKeys.derive(bytes(32), "test", FILES),
        DatasetKeys.derive(DATASET_KEY, "test2", FILES),
        DatasetKeys.derive(DATASET_KEY, "test", {"train-00000.parquet": "cd" * 32}),
        DatasetKeys.derive(DATASET_KEY, "test", {**FILES, "train-00001.parquet": "ab" * 32}),
    ],
)
def test_nothing_of_one_dataset_is_seen_again_in_another(other: DatasetKeys) -> None:
    for number in range(20):
        one, two = KEYS.leaf(document(number), "train"), other.leaf(document(number), "train")
        assert one[:32] != two[:32] and one[32:] != two[32:]
    assert commit_key(KEYS.openings) != commit_key(other.openings)


@pytest.mark.parametrize(
    "changed",
    [
        replace(document(1), doc_id="gazette/2.txt"),
        replace(document(1), text="Notice number 1"),
        replace(document(1), language="fr"),
        replace(document(1), source="other"),
        replace(document(1), owners=("Office 1", "Office 2")),
        replace(document(1), licence="CC0-1.0"),
        replace(document(1), collected_at="2026-01-01"),
        replace(document(1), quality=None),
        replace(document(1), cluster_id="c"),
        replace(document(1), transforms=("nfc",)),
    ],
)
def test_every_column_is_committed_to_and_only_the_text_makes_the_key(changed: Document) -> None:
    one, two = KEYS.leaf(document(1), "train"), KEYS.leaf(changed, "train")
    assert one[32:] != two[32:]
    assert (one[:32] == two[:32]) == (document(1).text == changed.text)
    assert KEYS.leaf(document(1), "heldout")[32:] != one[32:]


def test_secrets_stand_in_no_message() -> None:
    assert repr(KEYS) == "DatasetKeys()"


def test_short_key_and_not_a_number_are_refused() -> None:
    with pytest.raises(ProofError, match="wrong length"):
        DatasetKeys.derive(bytes(31), "test", FILES)
    with pytest.raises(ProofError, match=r"gazette/1\.txt cannot be written"):
        encode_record(make_record(replace(document(1), quality=float("nan")), "train"))


def test_record_has_every_column_but_the_text() -> None:
    columns = {*Document.__dataclass_fields__} - {"text"} | {"split", "text_sha256"}
    published = replace(document(3), url="https://example.org/3")
    assert set(json.loads(encode_record(make_record(published, "heldout")))) == columns
    # Without an address it is the record of before there was such a column.
    assert set(json.loads(encode_record(make_record(document(3), "heldout")))) == columns - {"url"}


@given(
    st.lists(st.binary(min_size=64, max_size=64), max_size=60, unique_by=lambda leaf: leaf[:32]),
    st.binary(min_size=32, max_size=32),
)
def test_leaves_are_sorted_and_found(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], key: bytes
) -> None:
    path = tmp_path_factory.mktemp("leaves") / "leaves.sqlite"
    build_leaves(path, (Row(leaf, 0, row) for row, leaf in enumerate(contents)))
    with Leaves(path) as leaves:
        ordered = [leaves[index] for index in range(leaves.size)]
        assert [one.leaf for one in ordered] == sorted(contents)
        assert all(contents[one.row] == one.leaf for one in ordered)
        assert leaves.root() == make_root(len(contents), tree_hash(sorted(contents)))
        for wanted in (key, *(leaf[:32] for leaf in contents)):
            assert leaves.bisect(wanted) == sum(leaf[:32] < wanted for leaf in contents)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_no_root_for_a_dataset_that_has_a_text_twice(tmp_path: Path, split: str) -> None:
    """With another owner, or in the other split: a text has one record."""
    twice = [(document(1), "train"), (document(2), "train"), (replace(document(1), owners=("Other",)), split)]
    build_leaves(tmp_path / "leaves.sqlite", (Row(KEYS.leaf(*one), 0, row) for row, one in enumerate(twice)))
    with Leaves(tmp_path / "leaves.sqlite") as leaves, pytest.raises(ProofError, match="have the same text"):
        leaves.root()


def test_a_file_of_leaves_is_whole_or_not_there(tmp_path: Path) -> None:
    def rows() -> list[Row]:
        raise ProofError("a document is damaged")

    with pytest.raises(ProofError):
        build_leaves(tmp_path / "leaves.sqlite", (row for _ in range(1) for row in rows()))
    assert list(tmp_path.iterdir()) == []
