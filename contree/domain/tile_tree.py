"""A growing Merkle tree kept as tiles: runs of 256 hashes, as C2SP tlog-tiles has them.

Tile (level l, number n) holds the hashes of subtrees of 256**l leaves each, from n * 256 on. A full
tile becomes one hash of the level above. What is in memory is the unfinished tile of each level: at
most 255 hashes for each factor 256 of size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from contree.domain.merkle import HASH_BYTES, NODE_PREFIX, Node, fold

TILE_BITS = 8
TILE_HASHES = 1 << TILE_BITS


class TileName(NamedTuple):
    """Where a tile is."""

    level: int
    number: int


@dataclass(frozen=True, slots=True)
class Tile:
    """`hashes` are 1 to 256 hashes, one after the other; fewer than 256 when the tree ends there.

    `first` is the number of the first leaf below it.
    """

    name: TileName
    hashes: bytes

    @property
    def first(self) -> int:
        return self.name.number << (TILE_BITS * (self.name.level + 1))


def unfinished_tiles(size: int) -> dict[TileName, int]:
    """The tiles in which a tree of `size` leaves ends, with how many hashes each has (1 to 255)."""
    tiles, level, count = {}, 0, size
    while count:
        if width := count % TILE_HASHES:
            tiles[TileName(level, count >> TILE_BITS)] = width
        level, count = level + 1, count >> TILE_BITS
    return tiles


def tile_of(node: Node) -> TileName:
    """The tile from which the hash of `node` can be computed."""
    level = node.level // TILE_BITS
    return TileName(level, node.number >> (TILE_BITS - node.level % TILE_BITS))


def hash_in(tile: Tile, node: Node) -> bytes:
    """The hash of `node`, computed from its tile. Raises ValueError when the tile ends before."""
    count = 1 << (node.level % TILE_BITS)
    first = (node.number * count) % TILE_HASHES
    hashes = split(tile.hashes)[first : first + count]
    if len(hashes) != count:
        raise ValueError(f"tile {tile.name.level}/{tile.name.number} ends too early")
    return _perfect(hashes)


def split(hashes: bytes) -> list[bytes]:
    """A tile's hashes, one by one."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


class TileTree:
    """Grows by leaf hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[list[bytes]] = [[]]

    @classmethod
    def resumed(cls, size: int, tiles: Mapping[TileName, Tile]) -> Self:
        """Go on from `unfinished_tiles(size)`. Raises ValueError when one is missing or short."""
        tree = cls()
        tree.size = size
        for name, width in unfinished_tiles(size).items():
            tile = tiles.get(name)
            hashes = split(tile.hashes)[:width] if tile is not None else []
            if len(hashes) != width or len(hashes[-1]) != HASH_BYTES:
                raise ValueError(f"tile {name.level}/{name.number} is missing or too short")
            while len(tree._levels) <= name.level:
                tree._levels.append([])
            tree._levels[name.level] = hashes
        return tree

    def extend(self, leaves: Sequence[bytes]) -> list[Tile]:
        """Add leaves; return the tiles that became full, each after those below it."""
        full: list[Tile] = []
        at = 0
        while at < len(leaves):
            room = TILE_HASHES - len(self._levels[0])
            taken = leaves[at : at + room]
            self._levels[0].extend(taken)
            self.size += len(taken)
            at += len(taken)
            if len(self._levels[0]) == TILE_HASHES:
                self._carry(full)
        return full

    def unfinished(self) -> list[Tile]:
        """The tiles that are not full, as they are now."""
        return [
            Tile(name, b"".join(self._levels[name.level])) for name in unfinished_tiles(self.size)
        ]

    def root(self) -> bytes:
        """The root hash of the tree as it is now."""
        peaks: list[bytes] = []
        for hashes in reversed(self._levels):
            at = 0
            for bit in reversed(range(TILE_BITS)):
                if len(hashes) & 1 << bit:
                    peaks.append(_perfect(hashes[at : at + (1 << bit)]))
                    at += 1 << bit
        return fold(peaks)

    def _carry(self, full: list[Tile]) -> None:
        """Turn full tiles into a hash of the level above, from the lowest upwards."""
        level = 0
        while len(self._levels[level]) == TILE_HASHES:
            number = (self.size >> (TILE_BITS * (level + 1))) - 1
            full.append(Tile(TileName(level, number), b"".join(self._levels[level])))
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(_perfect(self._levels[level]))
            self._levels[level] = []
            level += 1


def _perfect(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    sha256 = hashlib.sha256
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [sha256(NODE_PREFIX + left + next(pairs)).digest() for left in pairs]
    return hashes[0]
