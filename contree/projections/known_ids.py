"""Which ids begin so, over the read models of all projects."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from contree.app.projection import Database
from contree.app.short_ids import IdKind

BETWEEN = {
    IdKind.IMAGE: "SELECT image_id AS id FROM images WHERE image_id BETWEEN $1 AND $2",
    IdKind.OPERATION: "SELECT operation_id AS id FROM operations "
    "WHERE operation_id BETWEEN $1 AND $2",
    IdKind.TOKEN: "SELECT token_id AS id FROM tokens WHERE token_id BETWEEN $1 AND $2",
}


class SqlKnownIds:
    """app.short_ids.KnownIds over the primary keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def between(self, kind: IdKind, low: UUID, high: UUID, *, limit: int) -> Sequence[UUID]:
        rows = await self._database.fetch(f"{BETWEEN[kind]} ORDER BY id LIMIT $3", low, high, limit)
        return [row["id"] for row in rows]
