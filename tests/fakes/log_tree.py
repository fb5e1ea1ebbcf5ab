"""The stored tree in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from contree.app.proof.log_tree import EMPTY, TreeState
from contree.domain.errors import ConflictError
from contree.domain.tile_tree import Tile, TileName
from tests.fakes.recorded_log import FakeRecordedLog


class FakeLogTree:
    """Beside `recorded`. `stored` are its tiles, `notes` its copies, for tests that change them."""

    def __init__(self, recorded: FakeRecordedLog) -> None:
        self._recorded = recorded
        self.now = EMPTY
        self.stored: dict[TileName, Tile] = {}
        self.notes: dict[int, bytes] = {}

    async def state(self) -> TreeState:
        return self.now

    async def append(
        self,
        *,
        before: TreeState,
        after: TreeState,
        tiles: Sequence[Tile],
        positions: Sequence[int],  # noqa: ARG002 - the fake counts in the log
    ) -> None:
        if before != self.now:
            raise ConflictError("another process has gone on with the log's tree")
        self.now = after
        self.stored.update({tile.name: tile for tile in tiles})

    async def tiles(self, names: Collection[TileName]) -> Mapping[TileName, Tile]:
        return {name: self.stored[name] for name in names if name in self.stored}

    async def leaves_before(self, position: int) -> int:
        return sum(event.position < position for event in self._recorded.events)

    async def newest_note(self) -> tuple[int, bytes] | None:
        return max(self.notes.items(), default=None)

    async def keep_note(self, size: int, note: bytes) -> None:
        self.notes.setdefault(size, note)

    async def note_sizes(self) -> Sequence[int]:
        return sorted(self.notes)
