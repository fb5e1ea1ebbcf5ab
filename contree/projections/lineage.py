"""Where an image comes from and what came out of it (app.audit.audit_reads.Lineage), in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from contree.app.audit.audit_reads import (
    LINEAGE_ARGS_BYTES,
    LINEAGE_COMMAND_CHARS,
    Lineage,
    MakingOperation,
    RelatedImage,
)
from contree.app.projection import Database
from contree.domain.operation import Kind

ONE = "SELECT project_id FROM audit.images WHERE image_id = $1"
ANCESTORS = """
WITH RECURSIVE line AS (
    SELECT image_id, parent_image_id, operation_id, created_at, 0 AS depth
        FROM audit.images WHERE image_id = $1
    UNION ALL
    SELECT i.image_id, i.parent_image_id, i.operation_id, i.created_at, line.depth - 1
        FROM line JOIN audit.images i ON i.image_id = line.parent_image_id
        WHERE line.depth > -$2::integer
)
SELECT * FROM line WHERE depth < 0 ORDER BY depth DESC LIMIT $3
"""
CHILDREN = (
    "SELECT image_id, parent_image_id, operation_id, created_at FROM audit.images "
    "WHERE parent_image_id = ANY($1::uuid[]) ORDER BY created_at, image_id LIMIT $2"
)
SELF = (
    "SELECT image_id, parent_image_id, operation_id, created_at FROM audit.images "
    "WHERE image_id = $1"
)
TAGS = (
    "SELECT name, image_id FROM tags WHERE project_id = $1 AND image_id = ANY($2::uuid[]) "
    "ORDER BY assigned_at DESC, name"
)
OPERATIONS = (
    f"SELECT operation_id, kind, left(request ->> 'command', {LINEAGE_COMMAND_CHARS}) AS command, "  # noqa: S608 - constants
    f"CASE WHEN request ->> 'body' IS NULL AND octet_length(request ->> 'args') <= "
    f"{LINEAGE_ARGS_BYTES} THEN request -> 'args' END AS args, "
    "request ->> 'registry_url' AS registry_url, (outcome ->> 'exit_code')::integer AS exit_code, "
    "created_at, started_at, finished_at, duration_us "
    "FROM operations WHERE operation_id = ANY($1::uuid[]) AND project_id = $2"
)

Row = Mapping[str, Any]


class SqlLineage:
    """Walks the index: to the import by one recursive query, downwards a generation at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(
        self, project_id: UUID | None, image_id: UUID, *, depth: int, limit: int
    ) -> Lineage | None:
        owner = await self._database.fetchrow(ONE, image_id)
        if owner is None or project_id not in {None, owner["project_id"]}:
            return None
        project_id = owner["project_id"]
        assert project_id is not None
        (own,) = await self._database.fetch(SELF, image_id)
        # One more than is shown, to know whether there is more.
        above = list(await self._database.fetch(ANCESTORS, image_id, depth + 1, limit + 1))
        truncated = len(above) > min(depth, limit)
        found: list[tuple[int, Row]] = [(row["depth"], row) for row in above[: min(depth, limit)]]
        found = [*reversed(found), (0, own)]
        below, more = await self._descendants(image_id, depth, limit + 1 - len(found))
        found += below
        return Lineage(
            image_id=image_id,
            project_id=project_id,
            images=await self._described(project_id, found),
            truncated=truncated or more,
        )

    async def _descendants(
        self, image_id: UUID, depth: int, room: int
    ) -> tuple[list[tuple[int, Row]], bool]:
        """Return at most `room` descendants by generation, and whether there are more."""
        found: list[tuple[int, Row]] = []
        generation = [image_id]
        for number in range(1, depth + 2):
            left = max(0, room - len(found))
            rows = await self._database.fetch(CHILDREN, generation, left + 1)
            if rows and (number > depth or len(rows) > left):
                found += [(number, row) for row in rows[:left] if number <= depth]
                return found, True
            if not rows:
                break
            found += [(number, row) for row in rows]
            generation = [row["image_id"] for row in rows]
        return found, False

    async def _described(
        self, project_id: UUID, found: Sequence[tuple[int, Row]]
    ) -> list[RelatedImage]:
        """Add tags, and the operations that made the images."""
        tags: dict[UUID, list[str]] = defaultdict(list)
        ids = [row["image_id"] for _, row in found]
        for row in await self._database.fetch(TAGS, project_id, ids):
            tags[row["image_id"]].append(row["name"])
        operation_ids = [row["operation_id"] for _, row in found if row["operation_id"] is not None]
        made = {
            row["operation_id"]: _making(row)
            for row in await self._database.fetch(OPERATIONS, operation_ids, project_id)
        }
        return [
            RelatedImage(
                image_id=row["image_id"],
                parent_image_id=row["parent_image_id"],
                depth=number,
                created_at=row["created_at"],
                tags=tuple(tags[row["image_id"]]),
                operation=made.get(row["operation_id"]),
            )
            for number, row in found
        ]


def _making(row: Row) -> MakingOperation:
    args = row["args"]
    return MakingOperation(
        **{
            **row,
            "kind": Kind(row["kind"]),
            "args": None if args is None else orjson.loads(args),
        }
    )
