"""The Merkle tree against the public test vectors of Certificate Transparency, and against its definition."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.errors import ProofError
from sovereign.lake.merkle import follow_path, leaf_hash, make_path, node_hash, sibling_ranges, tree_hash

# merkletree/merkle_tree_test.cc of https://github.com/google/certificate-transparency
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def defined_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word by word."""
    if len(leaves) == 0:
        return bytes.fromhex(ROOTS[0])
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(defined_hash(leaves[:k]), defined_hash(leaves[k:]))


def path_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    return make_path(index, len(leaves), lambda start, end: tree_hash(leaves[start:end]))


def numbered(size: int) -> list[bytes]:
    return [index.to_bytes(4) for index in range(size)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert tree_hash(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), PATHS)
def test_paths_are_those_of_certificate_transparency(index: int, size: int, path: list[str]) -> None:
    assert [step.hex() for step in path_of(LEAVES[:size], index)] == path
    assert follow_path(LEAVES[index], index, size, [bytes.fromhex(step) for step in path]).hex() == ROOTS[size]


def test_every_path_of_every_small_tree_leads_to_the_defined_root_and_to_no_other_place() -> None:
    for size in range(1, 34):
        leaves = numbered(size)
        root = defined_hash(leaves)
        assert tree_hash(iter(leaves)) == root
        for index, leaf in enumerate(leaves):
            path = path_of(leaves, index)
            assert follow_path(leaf, index, size, path) == root
            for other in range(size):
                if other != index and len(sibling_ranges(other, size)) == len(path):
                    assert follow_path(leaf, other, size, path) != root


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=200), st.data())
def test_a_changed_path_or_leaf_leads_elsewhere(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, root = path_of(leaves, index), tree_hash(leaves)
    assert follow_path(leaves[index], index, len(leaves), path) == root
    assert follow_path(leaves[index] + b"\0", index, len(leaves), path) != root
    if path:
        step, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        changed = list(path)
        changed[step] = (int.from_bytes(path[step]) ^ 1 << bit).to_bytes(32)
        assert follow_path(leaves[index], index, len(leaves), changed) != root


@given(st.integers(1, 2**40), st.data())
def test_paths_of_large_trees_are_short_and_their_ranges_are_the_whole_tree(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    ranges = sibling_ranges(index, size)
    assert len(ranges) <= (size - 1).bit_length()
    ends = sorted([*ranges, (index, index + 1)])
    assert ends[0][0] == 0 and ends[-1][1] == size
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_wrong_lengths_and_places_are_refused() -> None:
    leaves = numbered(6)
    path = path_of(leaves, 2)
    for wrong in (path[:-1], path[1:], [*path, path[0]], []):
        with pytest.raises(ProofError, match="wrong length"):
            follow_path(leaves[2], 2, 6, wrong)
    for index in (-1, 6, 2**70):
        with pytest.raises(ProofError, match="no such leaf"):
            follow_path(leaves[2], index, 6, path)
    assert follow_path(leaves[2], 2, 6, path[::-1]) != tree_hash(leaves)


def test_an_inner_node_passes_neither_as_a_leaf_nor_a_leaf_as_a_node() -> None:
    leaves = numbered(4)
    inner = leaf_hash(leaves[0]) + leaf_hash(leaves[1])
    assert tree_hash([inner, leaves[2], leaves[3]]) != tree_hash(leaves)
    assert tree_hash([inner, leaf_hash(leaves[2]) + leaf_hash(leaves[3])]) != tree_hash(leaves)
