"""The tree over the log in tables beside it (app.proof.log_tree; migrations/006_log_tree.sql)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.app.proof.log_tree import EMPTY, TreeState
from contree.domain.errors import ConflictError
from contree.domain.tile_tree import Tile, TileName

STATE = "SELECT size, position, hash FROM public.log_tree"
ADVANCE = (
    "UPDATE public.log_tree SET size = $4, position = $5, hash = $6 "
    "WHERE size = $1 AND position = $2 AND hash = $3"
)
PUT_TILES = (
    "INSERT INTO public.log_tiles (level, index, first_position, hashes) "
    "SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bytea[]) "
    "ON CONFLICT (level, index) DO UPDATE SET hashes = EXCLUDED.hashes"
)
TILES = (
    "SELECT t.level, t.index, t.hashes FROM public.log_tiles AS t "
    "JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (level, index) USING (level, index)"
)
# The last tile that begins at or before the position, and how much of it comes before.
LEAVES_BEFORE = """
    WITH tile AS (
        SELECT index, first_position FROM public.log_tiles
        WHERE level = 0 AND first_position <= $1 ORDER BY first_position DESC LIMIT 1
    )
    SELECT coalesce((SELECT index * 256 FROM tile), 0) + count(*)
    FROM public.stored_events
    WHERE notification_id < $1
      AND notification_id >= coalesce((SELECT first_position FROM tile), 0)
"""
NEWEST_NOTE = "SELECT size, note FROM public.log_checkpoints ORDER BY size DESC LIMIT 1"
KEEP_NOTE = "INSERT INTO public.log_checkpoints (size, note) VALUES ($1, $2) ON CONFLICT DO NOTHING"
NOTE_SIZES = "SELECT size FROM public.log_checkpoints ORDER BY size"


class PostgresLogTree:
    """Reads and writes over the service's pool; `clear` needs an owner's."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def state(self) -> TreeState:
        with translated():
            row = await self._pool.fetchrow(STATE)
        if row is None:
            return EMPTY
        return TreeState(size=row["size"], position=row["position"], hash=row["hash"])

    async def append(
        self,
        *,
        before: TreeState,
        after: TreeState,
        tiles: Sequence[Tile],
        positions: Sequence[int],
    ) -> None:
        def first_position(tile: Tile) -> int | None:
            new = tile.name.level == 0 and tile.first >= before.size
            return positions[tile.first - before.size] if new else None

        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                # A second writer waits here for the first one's commit, and then finds nothing.
                done = await connection.execute(
                    ADVANCE,
                    *(before.size, before.position, before.hash),
                    *(after.size, after.position, after.hash),
                )
                if done != "UPDATE 1":
                    raise ConflictError("another process has gone on with the log's tree")
                await connection.execute(
                    PUT_TILES,
                    [tile.name.level for tile in tiles],
                    [tile.name.number for tile in tiles],
                    [first_position(tile) for tile in tiles],
                    [tile.hashes for tile in tiles],
                )

    async def tiles(self, names: Collection[TileName]) -> Mapping[TileName, Tile]:
        with translated():
            rows: Sequence[Mapping[str, Any]] = await self._pool.fetch(
                TILES, [name.level for name in names], [name.number for name in names]
            )
        tiles = [Tile(TileName(row["level"], row["index"]), row["hashes"]) for row in rows]
        return {tile.name: tile for tile in tiles}

    async def leaves_before(self, position: int) -> int:
        with translated():
            count: int = await self._pool.fetchval(LEAVES_BEFORE, position)
            return count

    async def newest_note(self) -> tuple[int, bytes] | None:
        with translated():
            row = await self._pool.fetchrow(NEWEST_NOTE)
        return None if row is None else (row["size"], row["note"].encode())

    async def keep_note(self, size: int, note: bytes) -> None:
        with translated():
            await self._pool.execute(KEEP_NOTE, size, note.decode())

    async def note_sizes(self) -> Sequence[int]:
        with translated():
            return [row["size"] for row in await self._pool.fetch(NOTE_SIZES)]


async def clear_tree(connection: asyncpg.Connection) -> None:
    """Forget tiles and state, as the owner, so that they are made again from the log."""
    with translated():
        async with connection.transaction():
            await connection.execute("UPDATE public.log_tree SET size = 0, position = 0, hash = ''")
            await connection.execute("TRUNCATE public.log_tiles")
