"""Hashes and proofs from the stored tiles. What comes out proves itself against a root, or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from contree.app.proof.log_tree import LogTree
from contree.domain.errors import ContreeError
from contree.domain.merkle import (
    Node,
    Range,
    consistency_ranges,
    fold,
    inclusion_ranges,
    nodes_of,
)
from contree.domain.tile_tree import hash_in, tile_of


class TreeDamagedError(ContreeError):
    """Stored tiles are missing or too short; `contreed audit rebuild` makes them from the log."""

    code = "tree_damaged"


async def root_at(tree: LogTree, size: int) -> bytes:
    """The root hash over the first `size` leaves. Raises TreeDamagedError, UnavailableError."""
    return fold(await hashes_of(tree, nodes_of((0, size))))


async def hashes_of(tree: LogTree, nodes: Sequence[Node]) -> list[bytes]:
    """The hash of each node. Raises TreeDamagedError, UnavailableError."""
    found = await _hashes(tree, nodes)
    return [found[node] for node in nodes]


async def inclusion_proofs(
    tree: LogTree, leaves: Collection[int], size: int
) -> dict[int, list[bytes]]:
    """The proof of each leaf in the tree over `size`. Raises TreeDamagedError, UnavailableError."""
    wanted = {leaf: inclusion_ranges(leaf, size) for leaf in leaves}
    needed = {node for ranges in wanted.values() for r in ranges for node in nodes_of(r)}
    found = await _hashes(tree, needed)
    return {leaf: [_folded(r, found) for r in ranges] for leaf, ranges in wanted.items()}


async def consistency_proof(tree: LogTree, older: int, newer: int) -> list[bytes]:
    """The proof from one size to another. Raises TreeDamagedError, UnavailableError."""
    ranges = consistency_ranges(older, newer)
    found = await _hashes(tree, {node for r in ranges for node in nodes_of(r)})
    return [_folded(r, found) for r in ranges]


def _folded(leaves: Range, found: Mapping[Node, bytes]) -> bytes:
    return fold([found[node] for node in nodes_of(leaves)])


async def _hashes(tree: LogTree, nodes: Collection[Node]) -> dict[Node, bytes]:
    tiles = await tree.tiles({tile_of(node) for node in nodes})
    found: dict[Node, bytes] = {}
    for node in nodes:
        name = tile_of(node)
        try:
            found[node] = hash_in(tiles[name], node)
        except (KeyError, ValueError):
            raise TreeDamagedError(
                f"tile {name.level}/{name.number} of the log's tree is missing or too short: "
                "`contreed audit rebuild` makes the tree again from the log"
            ) from None
    return found
