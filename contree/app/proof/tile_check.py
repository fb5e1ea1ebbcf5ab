"""Compares the stored tiles with those computed from the rows, and says what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from contree.app.proof.findings import Finding, bad_row
from contree.app.proof.log_rows import RawRow
from contree.app.proof.log_tree import LogTree, TreeState
from contree.domain.merkle import HASH_BYTES
from contree.domain.tile_tree import TILE_BITS, TILE_HASHES, Tile, TileName, split


class TileCheck:
    """Made by `begin`; knows the rows of the unfinished tile, to name the one that differs."""

    def __init__(self, tree: LogTree, state: TreeState) -> None:
        self._tree = tree
        self._state = state
        self._rows: list[bytes] = []
        self._base = 0
        self._first: _Difference | None = None

    @classmethod
    async def begin(cls, tree: LogTree) -> Self:
        return cls(tree, await tree.state())

    def begin_at(self, leaf: int) -> None:
        """The rows begin with this leaf, not with the first."""
        self._base = leaf

    async def compare(self, computed: Sequence[Tile], batch: Sequence[RawRow]) -> None:
        """Compare stored tiles with computed ones; `batch` are the rows since the last call."""
        rows = self._rows + [row for row, _ in batch]
        stored = await self._tree.tiles([t.name for t in computed if self._expected(t.name)])
        for tile in computed:
            found = stored.get(tile.name)
            self._look_at(tile, b"" if found is None else found.hashes, rows)
        # Only the rows of the tile that is not full yet are needed again.
        full = [tile for tile in computed if len(tile.hashes) == TILE_HASHES * HASH_BYTES]
        done = max((t.first + TILE_HASHES for t in full if t.name.level == 0), default=self._base)
        self._rows = rows[done - self._base :]
        self._base = done

    def found(self, *, covered: int, misfit: bool) -> list[Finding]:
        """The first difference, in the light of the checkpoints.

        covered  events under the newest checkpoint that fits the rows
        misfit   whether the one after that does not
        """
        first = self._first
        if first is None:
            return []
        if first.row is None or first.leaf < covered:
            return [Finding(text=f"{first.text}; the rows are right, `contreed audit rebuild`")]
        if misfit:
            text = f"it is not the row that was leaf {first.leaf} of the tree"
            return [bad_row(first.row, text)]
        text = (
            f"it differs from leaf {first.leaf} of the stored tree, and no checkpoint says who is"
        )
        return [bad_row(first.row, text + " right: the row was changed, or the tree was")]

    def missing(self, size: int) -> list[Finding]:
        """Whether the tree is larger than the log, of `size` events, is now."""
        if self._state.size <= size:
            return []
        return [
            Finding(
                text=f"the log has {size} events, its tree {self._state.size}: the last "
                f"{self._state.size - size} are missing"
            )
        ]

    async def diagnosis(self, number: int, leaf: bytes) -> str:
        """Say what happened at leaf `number`, where a row with this hash breaks the chain."""
        names = [TileName(0, (number >> TILE_BITS) + i) for i in (-1, 0, 1)]
        stored = await self._tree.tiles(names)
        known = {
            value: (name.number << TILE_BITS) + place
            for name, tile in stored.items()
            for place, value in enumerate(split(tile.hashes))
        }
        was = known.get(leaf)
        if was is not None and was > number:
            return f"it does not follow from the row before it: {was - number} between are missing"
        if was == number:
            return "its hash was changed, or is not that of this row after the one before it"
        if was is None and number in known.values():
            return "it is not the row that was recorded here: it was changed, moved or put in"
        return "its hash does not follow from the row before it: one of both was changed"

    def _expected(self, name: TileName) -> int:
        """How many hashes the stored tree must have in this tile at least."""
        width = (self._state.size >> (TILE_BITS * name.level)) - name.number * TILE_HASHES
        return max(0, min(TILE_HASHES, width))

    def _look_at(self, tile: Tile, stored: bytes, rows: Sequence[bytes]) -> None:
        if self._first is not None:
            return
        theirs, ours = split(stored), split(tile.hashes)
        if len(theirs) < min(self._expected(tile.name), len(ours)):
            self._first = _Difference(tile.first, None, f"{_named(tile)} is missing or too short")
            return
        for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one != other:
                at = tile.first + place - self._base
                row = rows[at] if tile.name.level == 0 and 0 <= at < len(rows) else None
                text = f"{_named(tile)}, hash {place}, is not that of the rows"
                self._first = _Difference(tile.first + place, row, text)
                return


@dataclass(frozen=True, slots=True)
class _Difference:
    """`row` is the one at `leaf` when it is known; without one only the tile is in question."""

    leaf: int
    row: bytes | None
    text: str


def _named(tile: Tile) -> str:
    return f"tile {tile.name.level}/{tile.name.number} of the stored tree"
