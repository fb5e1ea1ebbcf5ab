"""Images and tags as of a position of the log (app.audit.audit_reads.ImagesSeen)."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from contree.app.projection import Database
from contree.app.reads import ImageRow, Page
from contree.projections.images import COLUMNS, LAST_CHARACTER, image_row
from contree.projections.past_operations import LATEST
from contree.projections.query import NUL, Query

NEWEST_FIRST = "h.created_at DESC, h.image_id DESC, t.name"
KNOWN = "audit.images h JOIN images i ON i.image_id = h.image_id"
NOT_MOVED_SINCE = (
    "NOT EXISTS (SELECT FROM audit.tag_moves n WHERE n.project_id = m.project_id "
    "AND n.name = m.name AND n.position > m.position AND n.position <= $1)"
)
TAGS_THEN = (
    "SELECT m.name, m.assigned_at FROM audit.tag_moves m WHERE m.image_id = h.image_id "  # noqa: S608 - constants
    f"AND m.project_id = h.project_id AND m.position <= $1 AND {NOT_MOVED_SINCE}"
)
ANY_TAG = f"SELECT {COLUMNS} FROM {KNOWN} LEFT JOIN LATERAL ({TAGS_THEN}) t ON true"  # noqa: S608 - constants
BY_NAME = (
    "SELECT {} FROM (SELECT DISTINCT ON (m.name) m.name, m.image_id, m.project_id "
    "FROM audit.tag_moves m WHERE m.project_id = {} AND m.name >= {} AND m.name < {} "
    "AND m.position <= $1 ORDER BY m.name, m.position DESC) t "
    "JOIN audit.images h ON h.image_id = t.image_id AND h.project_id = t.project_id "
    "JOIN images i ON i.image_id = h.image_id"
)
BY_TAG = (
    f"SELECT {COLUMNS} FROM (SELECT m.name, m.image_id, m.project_id "  # noqa: S608 - constants
    "FROM audit.tag_moves m WHERE m.project_id = $2 AND m.name = $3 AND m.position <= $1 "
    "ORDER BY m.position DESC LIMIT 1) t "
    "JOIN audit.images h ON h.image_id = t.image_id AND h.project_id = t.project_id "
    "JOIN images i ON i.image_id = h.image_id WHERE h.position <= $1"
)


class PastImages:
    """The images as of `position`: those made by then, with the tags that pointed at them then."""

    def __init__(self, database: Database, position: int) -> None:
        self._database = database
        self._position = position

    async def get(self, project_id: UUID, image_id: UUID) -> ImageRow | None:
        query = self._known(ANY_TAG, project_id)
        query.where("h.image_id = {}", image_id)
        row = await self._database.fetchrow(
            f"{query.text()} ORDER BY t.assigned_at DESC, t.name LIMIT 1", *query.arguments
        )
        return None if row is None else image_row(row)

    async def by_tag(self, project_id: UUID, tag: str) -> ImageRow | None:
        if NUL in tag:
            return None
        row = await self._database.fetchrow(BY_TAG, self._position, project_id, tag)
        return None if row is None else image_row(row)

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        tagged: bool = False,
        tag_prefix: str | None = None,
        image_id: UUID | None = None,
    ) -> Sequence[ImageRow]:
        order = NEWEST_FIRST
        if tag_prefix is not None and NUL in tag_prefix:
            return ()
        if tag_prefix is None and not tagged:
            query = self._known(ANY_TAG, project_id)
            query.where(f"h.created_at <= {LATEST}")
        else:
            query = self._named(project_id, tag_prefix or "")
        if tag_prefix is not None:
            order = f"(t.name = {query.bound(tag_prefix)}) DESC, {NEWEST_FIRST}"
        if image_id is not None:
            query.where("h.image_id = {}", image_id)
        statement = query.page(page, created_at="h.created_at", order=order)
        rows = await self._database.fetch(statement, *query.arguments)
        return [image_row(row) for row in rows]

    def _known(self, select: str, project_id: UUID) -> Query:
        """The images of the project that were known then; `$1` is the position."""
        query = Query(select)
        query.bound(self._position)
        query.where("h.project_id = {}", project_id)
        query.where("h.position <= $1")
        return query

    def _named(self, project_id: UUID, prefix: str) -> Query:
        """The images that tags beginning with `prefix` pointed at."""
        bounds = Query("")
        bounds.bound(self._position)
        values = (project_id, prefix, prefix + LAST_CHARACTER)
        query = Query(BY_NAME.format(COLUMNS, *(bounds.bound(value) for value in values)))
        query.arguments = bounds.arguments
        query.where("h.position <= $1")
        return query
