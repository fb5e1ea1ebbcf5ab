"""The tree against the RFC's recursive definition and published values; proofs that were edited."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contree.domain.merkle import (
    EMPTY_ROOT,
    RangeRoot,
    consistency_ranges,
    fold,
    inclusion_ranges,
    is_consistent,
    nodes_of,
    root_of_inclusion,
)
from contree.domain.tile_tree import Tile, TileName, TileTree, hash_in, tile_of, unfinished_tiles

# Leaves and roots of the tests of Certificate Transparency (RFC 6962), for sizes 1 to 8.
PUBLISHED_LEAVES = [
    *("", "00", "10", "2021", "3031", "40414243"),
    *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
]
PUBLISHED_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Of the same tests: (leaf, counted from 0, size, hashes).
PUBLISHED_INCLUSION = [
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
]
PUBLISHED_CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def leaves(count: int) -> list[bytes]:
    return [leaf(b"%d" % number) for number in range(count)]


def mth(hashes: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word by word, over leaf hashes."""
    n = len(hashes)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashes[0]
    k = 1
    while k * 2 < n:
        k *= 2
    return hashlib.sha256(b"\1" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def proof(hashes: Sequence[bytes], ranges: list[tuple[int, int]]) -> list[bytes]:
    return [mth(hashes[start:end]) for start, end in ranges]


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    tree = TileTree()
    tree.extend([leaf(bytes.fromhex(text)) for text in PUBLISHED_LEAVES[:size]])
    assert tree.root().hex() == PUBLISHED_ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "hashes"), PUBLISHED_INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, hashes: list[str]) -> None:
    all_leaves = [leaf(bytes.fromhex(text)) for text in PUBLISHED_LEAVES]
    assert [h.hex() for h in proof(all_leaves, inclusion_ranges(index, size))] == hashes
    root = root_of_inclusion(all_leaves[index], index, size, [bytes.fromhex(h) for h in hashes])
    assert root is not None
    assert root.hex() == PUBLISHED_ROOTS[size - 1]


@pytest.mark.parametrize(("older", "newer", "hashes"), PUBLISHED_CONSISTENCY)
def test_published_consistency_proofs(older: int, newer: int, hashes: list[str]) -> None:
    all_leaves = [leaf(bytes.fromhex(text)) for text in PUBLISHED_LEAVES]
    assert [h.hex() for h in proof(all_leaves, consistency_ranges(older, newer))] == hashes


def test_the_empty_tree() -> None:
    assert TileTree().root() == EMPTY_ROOT == fold([]) == mth([])
    assert unfinished_tiles(0) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=4), st.booleans())
def test_a_tree_that_grows_in_steps_is_the_recursive_one(steps: list[int], resume: bool) -> None:
    all_leaves = leaves(sum(steps))
    tree, stored = TileTree(), {}
    for step in steps:
        full = tree.extend(all_leaves[tree.size : tree.size + step])
        stored |= {tile.name: tile for tile in [*full, *tree.unfinished()]}
        assert tree.root() == mth(all_leaves[: tree.size])
        if resume:
            tree = TileTree.resumed(tree.size, stored)
    for node in nodes_of((0, tree.size)):
        span = all_leaves[node.number << node.level : (node.number + 1) << node.level]
        assert hash_in(stored[tile_of(node)], node) == mth(span)


def test_three_levels_of_tiles() -> None:
    """As the standard's example: 70,000 leaves end in three unfinished tiles."""
    tree = TileTree()
    full = tree.extend(leaves(70_000))
    assert len([tile for tile in full if tile.name.level == 0]) == 273
    assert [tile.name for tile in full if tile.name.level == 1] == [TileName(1, 0)]
    widths = {tile.name: len(tile.hashes) // 32 for tile in tree.unfinished()}
    assert widths == {TileName(0, 273): 112, TileName(1, 1): 17, TileName(2, 0): 1}
    assert widths == unfinished_tiles(70_000)
    assert tree.root() == mth(leaves(70_000))


@pytest.mark.parametrize("size", range(1, 34))
def test_every_proof_of_small_trees(size: int) -> None:
    hashes = leaves(size)
    root = mth(hashes)
    for index in range(size):
        path = proof(hashes, inclusion_ranges(index, size))
        assert root_of_inclusion(hashes[index], index, size, path) == root
        for wrong in {index - 1, index + 1, size}:
            assert root_of_inclusion(hashes[index], wrong, size, path) != root
    for older in range(1, size + 1):
        path = proof(hashes, consistency_ranges(older, size))
        assert is_consistent(older, mth(hashes[:older]), size, root, path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_bit_breaks_a_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 600))
    hashes = leaves(size)
    root = mth(hashes)
    index = data.draw(st.integers(0, size - 1))
    path = proof(hashes, inclusion_ranges(index, size))
    place, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
    broken = [*path[:place], flipped(path[place], bit), *path[place + 1 :]]
    assert root_of_inclusion(hashes[index], index, size, broken) != root
    assert root_of_inclusion(flipped(hashes[index], bit), index, size, path) != root
    assert root_of_inclusion(hashes[index], index, size, path[:-1]) != root
    assert root_of_inclusion(hashes[index], index, size, [*path, path[-1]]) != root

    older = data.draw(st.integers(1, size - 1))
    old_root, path = mth(hashes[:older]), proof(hashes, consistency_ranges(older, size))
    place = data.draw(st.integers(0, len(path) - 1))
    broken = [*path[:place], flipped(path[place], bit), *path[place + 1 :]]
    assert is_consistent(older, old_root, size, root, path)
    assert not is_consistent(older, old_root, size, root, broken)
    assert not is_consistent(older, flipped(old_root, bit), size, root, path)
    assert not is_consistent(older, old_root, size, flipped(root, bit), path)
    assert not is_consistent(older, old_root, size, root, path[:-1])
    assert not is_consistent(older, old_root, size, root, [*path, path[-1]])


@pytest.mark.parametrize(("older", "newer"), [(0, 3), (4, 3), (-1, 3)])
def test_proofs_between_impossible_sizes_are_refused(older: int, newer: int) -> None:
    assert not is_consistent(older, EMPTY_ROOT, newer, EMPTY_ROOT, [])
    with pytest.raises(ValueError, match="no proof"):
        consistency_ranges(older, newer)
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_ranges(newer, newer)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_run_of_leaves_with_its_sides_gives_the_root_and_nothing_else_does(
    data: st.DataObject,
) -> None:
    size = data.draw(st.integers(1, 400))
    first = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(first + 1, size))
    hashes = leaves(size)

    def side(start: int, stop: int) -> list[bytes]:
        spans = [(n.number << n.level, (n.number + 1) << n.level) for n in nodes_of((start, stop))]
        return [mth(hashes[a:b]) for a, b in spans]

    def root_of(run: Sequence[bytes], left: Sequence[bytes], right: Sequence[bytes]) -> bytes:
        root = RangeRoot(first, left)
        for value in run:
            root.add(value)
        return root.finish(size, right)

    left, right, run = side(0, first), side(end, size), hashes[first:end]
    assert root_of(run, left, right) == mth(hashes)
    place = data.draw(st.integers(0, len(run) - 1))
    touched = [*run[:place], flipped(run[place], 3), *run[place + 1 :]]
    assert root_of(touched, left, right) != mth(hashes)
    with contextlib.suppress(ValueError):  # the count of subtrees may give it away
        assert root_of(run[1:], left, right) != mth(hashes)
    with pytest.raises(ValueError, match="cannot stand"):
        root_of(run, [*left, EMPTY_ROOT], right)
    with pytest.raises(ValueError, match="cannot stand"):
        root_of(run, left, [*right, EMPTY_ROOT])


def test_a_tile_that_is_missing_or_short_is_refused() -> None:
    tree = TileTree()
    tree.extend(leaves(300))
    tiles = {tile.name: tile for tile in tree.unfinished()}
    short = Tile(TileName(0, 1), tiles[TileName(0, 1)].hashes[:-32])
    for wrong in ({}, tiles | {TileName(0, 1): short}):
        with pytest.raises(ValueError, match="tile 0/1"):
            TileTree.resumed(300, wrong)
