"""The Merkle tree over the log, kept as tiles beside it: derived, for proofs, never trusted alone.

Leaf n is the n-th event of the log, from 0: positions have gaps, leaves have none. Implemented by
adapters.postgres.log_tree; tests/contracts/test_log_tree.py holds the fake to the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from contree.domain.tile_tree import Tile, TileName


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeState:
    """How far the tree is.

    size      leaves
    position  of the last event in it, 0 without
    hash      the chain's at that event, empty without
    """

    size: int
    position: int
    hash: bytes


EMPTY = TreeState(size=0, position=0, hash=b"")


class LogTree(Protocol):
    """Written by one process at a time; a second one that tries is refused, not mixed in."""

    async def state(self) -> TreeState:
        """Return how far the tree is. Raises UnavailableError."""
        ...

    async def append(
        self,
        *,
        before: TreeState,
        after: TreeState,
        tiles: Sequence[Tile],
        positions: Sequence[int],
    ) -> None:
        """Write `tiles` (new, or grown) and `after`, all or nothing.

        `positions` are those of the new leaves, from number `before.size` on. Raises ConflictError
        when the tree is not at `before`, UnavailableError.
        """
        ...

    async def tiles(self, names: Collection[TileName]) -> Mapping[TileName, Tile]:
        """Return those of the tiles that are there. Raises UnavailableError."""
        ...

    async def leaves_before(self, position: int) -> int:
        """Return how many events come before `position`: the leaf number of the event there.

        Counts the log itself where the tree does not reach. Raises UnavailableError.
        """
        ...

    async def newest_note(self) -> tuple[int, bytes] | None:
        """Return size and note of the newest checkpoint that was signed. Raises UnavailableError.

        A copy: the one in the checkpoint store is the one that counts.
        """
        ...

    async def keep_note(self, size: int, note: bytes) -> None:
        """Keep a copy of a stored checkpoint's note; one of this size that is there stays.

        Raises UnavailableError.
        """
        ...

    async def note_sizes(self) -> Sequence[int]:
        """Return the sizes of all checkpoints that were signed, in order."""
        ...
