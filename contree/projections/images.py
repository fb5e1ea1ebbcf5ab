"""Images, with their tags joined in when read: one row an image, never updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from contree.app.projection import Change, Database
from contree.app.reads import ImageRow, Page
from contree.domain.aggregate import Event
from contree.domain.image import ImageCommitted, ImageImported
from contree.projections.query import NUL, Query

INSERT = (
    "INSERT INTO images "
    "(image_id, project_id, created_at, operation_id, parent_image_id, layers, size_bytes) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7)"
)
COLUMNS = (
    "i.image_id, i.project_id, t.name AS tag, i.created_at, i.operation_id, i.parent_image_id, "
    "i.layers, i.size_bytes"
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
    """The table `images`."""

    tables: tuple[str, ...] = ("images",)
    ddl = """
CREATE TABLE IF NOT EXISTS images (
    image_id        uuid        PRIMARY KEY,
    project_id      uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    operation_id    uuid,
    parent_image_id uuid,
    layers          text[]      NOT NULL,
    size_bytes      bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS images_newest_idx
    ON images (project_id, created_at DESC, image_id DESC);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        match event:
            case ImageImported():
                parent_image_id = None
            case ImageCommitted():
                parent_image_id = event.parent_image_id
            case _:
                return ()
        arguments = (
            event.originator_id,
            event.project_id,
            event.timestamp,
            event.operation_id,
            parent_image_id,
            event.layers,
            event.size_bytes,
        )
        row = ("images", event.originator_id)
        return (Change(statement=INSERT, arguments=arguments, row=row),)


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
    return ImageRow(**{**row, "layers": tuple(row["layers"])})
