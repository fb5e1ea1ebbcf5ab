"""The ancestors of images (app.images.ancestry.Ancestry), in SQL over `images`.

Two lines that may be 100,000 images long meet in one image. To find it, each is first walked in
steps of STRIDE (projections.images); then only the stretch is walked in which they part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from contree.app.images.ancestry import LineImage
from contree.app.projection import Database
from contree.projections.images import STRIDE

LINE = """
WITH RECURSIVE line AS (
    SELECT 1 AS steps, image_id, parent_image_id, operation_id, created_at, layers
    FROM images WHERE image_id = $1 AND project_id = $2
    UNION ALL
    SELECT line.steps + 1, i.* FROM line, LATERAL (
        SELECT image_id, parent_image_id, operation_id, created_at, layers
        FROM images WHERE image_id = line.parent_image_id LIMIT 1
    ) i
    WHERE line.steps < $3
)
SELECT image_id, parent_image_id, operation_id, created_at, layers FROM line ORDER BY steps
"""
WAY = """
WITH RECURSIVE line AS (
    SELECT image_id, depth, coalesce(stride_image_id, parent_image_id) AS below
    FROM images WHERE image_id = $1 AND project_id = $2
    UNION ALL
    SELECT i.* FROM line, LATERAL (
        SELECT image_id, depth, coalesce(stride_image_id, parent_image_id)
        FROM images WHERE image_id = line.below LIMIT 1
    ) i
)
SELECT image_id, depth FROM line
"""
BETWEEN = (
    "SELECT image_id, project_id FROM images WHERE image_id >= $1 AND image_id <= $2 "
    "AND ($3::uuid IS NULL OR project_id = $3) ORDER BY image_id LIMIT $4"
)
REQUESTS = (
    "SELECT originator_id, state FROM public.stored_events "
    "WHERE originator_id = ANY($1::uuid[]) AND originator_version = 1"
)
NO_ID = "00000000-0000-0000-0000-000000000000"


Decode = Callable[[bytes], Mapping[str, Any]]


class SqlAncestry:
    """`decode` reads the facts of an event: who asked for an operation is in its first alone."""

    def __init__(self, database: Database, *, decode: Decode) -> None:
        self._database = database
        self._decode = decode

    async def line(self, project_id: UUID, image_id: UUID, *, limit: int) -> Sequence[LineImage]:
        rows = await self._database.fetch(LINE, image_id, project_id, limit)
        return [LineImage(**{**row, "layers": tuple(row["layers"])}) for row in rows]

    async def nearest_common(self, project_id: UUID, one: UUID, other: UUID) -> UUID | None:
        ways = [await self._way(project_id, image_id) for image_id in (one, other)]
        met = max((depth for image_id, depth in ways[0].items() if image_id in ways[1]), default=-1)
        if met < 0:
            return None
        # They part at most STRIDE above: the highest image of each way that is no higher leads by
        # its parents through all that they may have in common.
        tops = [
            max((depth, image_id) for image_id, depth in way.items() if depth <= met + STRIDE)[1]
            for way in ways
        ]
        lines = [
            [image.image_id for image in await self.line(project_id, top, limit=STRIDE + 1)]
            for top in tops
        ]
        return next(image_id for image_id in lines[0] if image_id in lines[1])

    async def beginning_with(
        self, prefix: str, project_id: UUID | None, *, limit: int
    ) -> Sequence[tuple[UUID, UUID]]:
        low = UUID(prefix + NO_ID[len(prefix) :])
        high = UUID(prefix + NO_ID[len(prefix) :].replace("0", "f"))
        rows = await self._database.fetch(BETWEEN, low, high, project_id, limit)
        return [(row["image_id"], row["project_id"]) for row in rows]

    async def requesters(self, operation_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        rows = await self._database.fetch(REQUESTS, operation_ids)
        return {row["originator_id"]: self._decode(row["state"])["actor"] for row in rows}

    async def _way(self, project_id: UUID, image_id: UUID) -> dict[UUID, int]:
        """Return depths of images on the way down, at most STRIDE apart, the import among them."""
        rows = await self._database.fetch(WAY, image_id, project_id)
        return {row["image_id"]: row["depth"] for row in rows}
