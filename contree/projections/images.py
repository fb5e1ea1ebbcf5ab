"""Images: one row each, never updated; their tags are joined in when read.

A row has the layers that the image adds to its parent; an image's stack of layers is found by
following parents to the import. To make this way short, each image whose depth is a multiple of
STRIDE also refers to its ancestor STRIDE images below, and has the layers of all images since then
(ADR 19). So a stack at depth d is read from at most STRIDE + d / STRIDE rows, and no row grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from contree.app.projection import Change, Database
from contree.app.reads import ImageRow, Page
from contree.domain.aggregate import Event
from contree.domain.errors import NotFoundError
from contree.domain.image import ImageCommitted, ImageImported
from contree.projections.query import NUL, Query

STRIDE: Final = 64

INSERT = (
    "INSERT INTO images (image_id, project_id, created_at, operation_id, parent_image_id, depth, "
    "layers, size_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
)
# Walks down to the image STRIDE below. Where one between is missing, `stride_layers` stays null,
# and the table's check refuses the row. LATERAL with LIMIT: always a look into the primary key.
INSERT_WITH_STRIDE = f"""
INSERT INTO images (image_id, project_id, created_at, operation_id, parent_image_id, depth,
                    layers, size_bytes, stride_image_id, stride_layers)
WITH RECURSIVE line AS (
    SELECT 1 AS steps, $5::uuid AS below, $7::text[] AS layers
    UNION ALL
    SELECT line.steps + 1, i.parent_image_id, i.layers || line.layers
    FROM line, LATERAL (
        SELECT parent_image_id, layers FROM images WHERE image_id = line.below LIMIT 1
    ) i
    WHERE line.steps < {STRIDE}
)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, whole.below, whole.layers
FROM (SELECT) AS one LEFT JOIN line AS whole ON whole.steps = {STRIDE}
"""  # noqa: S608 - a constant
INSERT_LAYERS = (
    "INSERT INTO project_layers (layer, project_id) SELECT unnest($1::text[]), $2::uuid "
    "ON CONFLICT DO NOTHING"
)
STACK = """
WITH RECURSIVE line AS (
    SELECT depth, coalesce(stride_image_id, parent_image_id) AS below,
           coalesce(stride_layers, layers) AS layers
    FROM images WHERE image_id = $1 AND project_id = $2
    UNION ALL
    SELECT i.* FROM line, LATERAL (
        SELECT depth, coalesce(stride_image_id, parent_image_id),
               coalesce(stride_layers, layers)
        FROM images WHERE image_id = line.below LIMIT 1
    ) i
)
SELECT depth, layers FROM line ORDER BY depth
"""
COLUMNS = (
    "i.image_id, i.project_id, t.name AS tag, i.created_at, i.operation_id, i.parent_image_id, "
    "i.depth, i.size_bytes"
)
TAGS = "tags t ON t.project_id = i.project_id AND t.image_id = i.image_id"
ANY_TAG = f"SELECT {COLUMNS} FROM images i LEFT JOIN {TAGS}"  # noqa: S608 - constants
TAGGED = f"SELECT {COLUMNS} FROM images i JOIN {TAGS}"  # noqa: S608 - constants
GET = (
    f"{ANY_TAG} WHERE i.image_id = $1 AND i.project_id = $2 "
    "ORDER BY t.assigned_at DESC, t.name LIMIT 1"
)
BY_TAG = f"{TAGGED} WHERE t.project_id = $1 AND t.name = $2"
TAGS_OF = (
    "SELECT name FROM tags WHERE project_id = $1 AND image_id = $2 ORDER BY assigned_at DESC, name"
)
NEWEST_FIRST = "i.created_at DESC, i.image_id DESC, t.name"
LAST_CHARACTER = "\U0010ffff"
"""Sorts behind everything a tag may continue with."""


class ImagesProjection:
    """The tables `images`, and `project_layers`: which projects have an image with a layer."""

    tables: tuple[str, ...] = ("images", "project_layers")
    ddl = f"""
CREATE TABLE IF NOT EXISTS images (
    image_id        uuid        PRIMARY KEY,
    project_id      uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    operation_id    uuid,
    parent_image_id uuid,
    depth           integer     NOT NULL,
    layers          text[]      NOT NULL,
    size_bytes      bigint      NOT NULL,
    stride_image_id uuid,
    stride_layers   text[],
    CHECK ((stride_layers IS NOT NULL) = (depth > 0 AND depth % {STRIDE} = 0))
);
CREATE INDEX IF NOT EXISTS images_newest_idx
    ON images (project_id, created_at DESC, image_id DESC);
CREATE TABLE IF NOT EXISTS project_layers (
    layer      text NOT NULL,
    project_id uuid NOT NULL,
    PRIMARY KEY (layer, project_id)
);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        match event:
            case ImageImported():
                parent_image_id, depth, layers = None, 0, event.layers
            case ImageCommitted():
                parent_image_id, depth = event.parent_image_id, event.depth
                layers = [] if event.layer is None else [event.layer]
            case _:
                return ()
        has_stride = depth > 0 and depth % STRIDE == 0
        image = Change(
            statement=INSERT_WITH_STRIDE if has_stride else INSERT,
            arguments=(
                event.originator_id,
                event.project_id,
                event.timestamp,
                event.operation_id,
                parent_image_id,
                depth,
                layers,
                event.size_bytes,
            ),
            row=("images", event.originator_id),
            reads=("images", parent_image_id) if has_stride else None,
        )
        if not layers:
            return (image,)
        known = Change(
            statement=INSERT_LAYERS,
            arguments=(layers, event.project_id),
            # As good as a row: what is there already is left alone, whoever was first.
            row=("project_layers", (event.project_id, *layers)),
        )
        return (image, known)


class SqlImageReads:
    """app.reads.ImageReads over `images` and `tags`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_id: UUID, image_id: UUID) -> ImageRow | None:
        row = await self._database.fetchrow(GET, image_id, project_id)
        return None if row is None else image_row(row)

    async def by_tag(self, project_id: UUID, tag: str) -> ImageRow | None:
        if NUL in tag:
            return None
        row = await self._database.fetchrow(BY_TAG, project_id, tag)
        return None if row is None else image_row(row)

    async def stack(self, project_id: UUID, image_id: UUID) -> Sequence[str]:
        rows = await self._database.fetch(STACK, image_id, project_id)
        if not rows:
            raise NotFoundError("image", image_id)
        if rows[0]["depth"] != 0:
            raise RuntimeError(f"the read model lacks an image below {image_id}: rebuild it")
        return [layer for row in rows for layer in row["layers"]]

    async def tags_of(self, project_id: UUID, image_id: UUID) -> Sequence[str]:
        rows = await self._database.fetch(TAGS_OF, project_id, image_id)
        return [row["name"] for row in rows]

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        tagged: bool = False,
        tag_prefix: str | None = None,
        image_id: UUID | None = None,
    ) -> Sequence[ImageRow]:
        query = Query(TAGGED if tagged or tag_prefix is not None else ANY_TAG)
        query.where("i.project_id = {}", project_id)
        if image_id is not None:
            query.where("i.image_id = {}", image_id)
        order = NEWEST_FIRST
        if tag_prefix is not None:
            if NUL in tag_prefix:
                return ()
            query.where("t.name >= {} AND t.name < {}", tag_prefix, tag_prefix + LAST_CHARACTER)
            order = f"(t.name = {query.bound(tag_prefix)}) DESC, {NEWEST_FIRST}"
        statement = query.page(page, created_at="i.created_at", order=order)
        rows = await self._database.fetch(statement, *query.arguments)
        return [image_row(row) for row in rows]


def image_row(row: Mapping[str, Any]) -> ImageRow:
    return ImageRow(**row)
