"""Merkle trees as RFC 9162 section 2.1 (and RFC 6962) defines them, over SHA-256.

A tree over n leaves is made of perfect subtrees, one for each bit of n, largest first: its *peaks*.
A `Node` (level, number) is the perfect subtree over leaves number * 2**level and the 2**level - 1
after it. Proofs here are first lists of leaf ranges (what is needed), whose hashes the caller finds
by `nodes_of` and `fold`: whoever stores the tree decides how.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HASH_BYTES = 32
NODE_PREFIX = b"\x01"
EMPTY_ROOT = hashlib.sha256(b"").digest()

Range = tuple[int, int]
"""Leaves from the first number up to, without, the second."""


class Node(NamedTuple):
    """A perfect subtree: leaves number * 2**level up to (number + 1) * 2**level."""

    level: int
    number: int


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these children."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def fold(peaks: Sequence[bytes]) -> bytes:
    """The hash of the tree whose perfect subtrees, largest first, have these hashes."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def nodes_of(leaves: Range) -> list[Node]:
    """The perfect subtrees that make up a range, left to right; each as large as alignment lets.

    For a range that a proof names, `fold` of their hashes is the range's hash.
    """
    start, end = leaves
    nodes = []
    while start < end:
        aligned = (start & -start).bit_length() - 1 if start else end.bit_length()
        level = min(aligned, (end - start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """What proves that leaf `index` is in the tree over `size` leaves, from the leaf upwards."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    ranges: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_half(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(older: int, newer: int) -> list[Range]:
    """What proves that the tree over `newer` leaves begins with the one over `older`."""
    if not 0 < older <= newer:
        raise ValueError(f"no proof leads from {older} leaves to {newer}")
    ranges: list[Range] = []
    start, end, whole = 0, newer, True
    while older != end:
        middle = start + _left_half(end - start)
        if older <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that `proof` leads to from `leaf`, None when it does not fit index and size.

    RFC 9162, 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    return result if last == 0 else None


def is_consistent(
    older: int, older_root: bytes, newer: int, newer_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether `proof` shows that the newer tree begins with the older one. RFC 9162, 2.1.4.2."""
    if not 0 < older <= newer:
        return False
    if older == newer:
        return not proof and older_root == newer_root
    path = list(proof)
    if older & (older - 1) == 0:
        path.insert(0, older_root)
    if not path:
        return False
    node, last = older - 1, newer - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == older_root and new == newer_root


class RangeRoot:
    """The root of a tree of which only a run of leaves is known, and the subtrees on both sides.

        root = RangeRoot(first, hashes of nodes_of((0, first)))
        root.add(leaf) ...                              # each leaf of the run
        root.finish(size, hashes of nodes_of((end, size)))

    O(log size) memory. Raises ValueError when the hashes do not fit the numbers.
    """

    def __init__(self, first: int, left: Sequence[bytes]) -> None:
        if len(left) != len(nodes_of((0, first))):
            raise ValueError(f"{len(left)} hashes cannot stand for the first {first} leaves")
        self.size = first
        self._peaks = list(left)

    def add(self, leaf: bytes) -> None:
        self._add(0, leaf)

    def finish(self, size: int, right: Iterable[bytes]) -> bytes:
        """Return the root of the tree over `size` leaves."""
        hashes = list(right)
        nodes = nodes_of((self.size, size))
        if len(nodes) != len(hashes) or self.size > size:
            raise ValueError(f"{len(hashes)} hashes cannot stand for leaves {self.size} to {size}")
        for node, value in zip(nodes, hashes, strict=True):
            self._add(node.level, value)
        return fold(self._peaks)

    def _add(self, level: int, value: bytes) -> None:
        number = self.size >> level
        while number & 1:
            value = node_hash(self._peaks.pop(), value)
            number >>= 1
        self._peaks.append(value)
        self.size += 1 << level


def _left_half(count: int) -> int:
    """The largest power of two below `count` (2 or more): how many leaves the left child has."""
    return 1 << ((count - 1).bit_length() - 1)
