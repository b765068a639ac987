"""Merkle trees as in RFC 9162, section 2.1, with SHA-256: hashes of leaves and ranges, and paths to the root.

Leaves and inner nodes are hashed under different prefixes, so none can pass as the other. The tree hash alone does not
say how many leaves there are; `sovereign.lake.commitments.make_root` binds the number.
https://www.rfc-editor.org/rfc/rfc9162#section-2.1
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from sovereign.errors import ProofError


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf's content."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(leaves: Iterable[bytes]) -> bytes:
    """Merkle tree hash of the leaves in this order; keeps one hash for each level."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        level, value = 0, leaf_hash(leaf)
        while stack and stack[-1][0] == level:
            value = node_hash(stack.pop()[1], value)
            level += 1
        stack.append((level, value))
    if not stack:
        return hashlib.sha256().digest()
    value = stack.pop()[1]
    while stack:
        value = node_hash(stack.pop()[1], value)
    return value


def sibling_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees beside the way from leaf `index` to the root of `size` leaves: (first leaf, leaf after the last)."""
    start, end = 0, size
    ranges = []
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))  # the largest power of two below the length
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def make_path(index: int, size: int, range_hash: Callable[[int, int], bytes]) -> list[bytes]:
    """The path of leaf `index`; `range_hash` gives the tree hash of a range of leaves."""
    return [range_hash(start, end) for start, end in sibling_ranges(index, size)]


def follow_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The tree hash to which `path` leads from a leaf's content.

    Raises:
        ProofError: there is no such leaf in a tree of this size, or its path has another length.
    """
    if not 0 <= index < size:
        raise ProofError("no such leaf in a tree of this size", got=index, expected=f"0 to {size - 1}")
    ranges = sibling_ranges(index, size)
    if len(path) != len(ranges):
        raise ProofError("the path has a wrong length", got=len(path), expected=len(ranges))
    value = leaf_hash(leaf)
    for (start, _), sibling in zip(ranges, path, strict=True):
        value = node_hash(sibling, value) if start < index else node_hash(value, sibling)
    return value
