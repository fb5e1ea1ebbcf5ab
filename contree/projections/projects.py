"""Projects by id and name, and what becomes of their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from contree.app.projection import Change, Database
from contree.app.reads import ProjectRow
from contree.domain import project as events
from contree.domain.aggregate import Event
from contree.domain.project import Removal

INSERT = "INSERT INTO projects (project_id, name, created_at) VALUES ($1, $2, $3)"
HOLD = "UPDATE projects SET hold_reason = $2 WHERE project_id = $1"
RETAIN = "UPDATE projects SET retention_days = $2 WHERE project_id = $1"
CUT = "UPDATE projects SET content_cut = $2 WHERE project_id = $1"
SWEPT = "UPDATE projects SET swept_cut = $2 WHERE project_id = $1"
ERASE = "UPDATE projects SET erased_at = $2 WHERE project_id = $1"
CLEARED = "UPDATE projects SET cleared_at = $2 WHERE project_id = $1"
SELECT = (
    "SELECT project_id, name, created_at, hold_reason, retention_days, content_cut, swept_cut, "
    "erased_at, cleared_at FROM projects"
)

TO_TEND = (
    "CASE WHEN erased_at IS NOT NULL THEN cleared_at IS NULL ELSE hold_reason IS NULL "
    "AND (retention_days IS NOT NULL OR content_cut IS DISTINCT FROM swept_cut) END"
)


class ProjectsProjection:
    """The table `projects`; tokens are shown with their project's name."""

    tables: tuple[str, ...] = ("projects",)
    ddl = """
CREATE TABLE IF NOT EXISTS projects (
    project_id     uuid        PRIMARY KEY,
    name           text        NOT NULL,
    created_at     timestamptz NOT NULL,
    hold_reason    text,
    retention_days integer,
    content_cut    timestamptz,
    swept_cut      timestamptz,
    erased_at      timestamptz,
    cleared_at     timestamptz
);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        change = _change(event)
        if change is None:
            return ()
        statement, arguments = change
        id_ = event.originator_id
        return (Change(statement=statement, arguments=(id_, *arguments), row=("projects", id_)),)


def _change(event: Event) -> tuple[str, tuple[object, ...]] | None:
    """The statement for `event` and its values after the project's id."""
    match event:
        case events.ProjectCreated():
            return INSERT, (event.name, event.timestamp)
        case events.ProjectHeld():
            return HOLD, (event.reason,)
        case events.ProjectReleased():
            return HOLD, (None,)
        case events.RetentionSet():
            return RETAIN, (event.days,)
        case events.RetentionApplied():
            return CUT, (event.cut,)
        case events.ProjectErased():
            return ERASE, (event.timestamp,)
        case events.ContentRemoved(complete=True, cause=Removal.RETENTION):
            return SWEPT, (event.cut,)
        case events.ContentRemoved(complete=True):
            return CLEARED, (event.timestamp,)
        case _:
            return None


class SqlProjectReads:
    """app.reads.ProjectReads over `projects`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_id: UUID) -> ProjectRow | None:
        row = await self._database.fetchrow(f"{SELECT} WHERE project_id = $1", project_id)
        return None if row is None else _project_row(row)

    async def list(self) -> Sequence[ProjectRow]:
        rows = await self._database.fetch(f"{SELECT} ORDER BY name")
        return [_project_row(row) for row in rows]

    async def to_tend(self) -> Sequence[ProjectRow]:
        rows = await self._database.fetch(f"{SELECT} WHERE {TO_TEND} ORDER BY name")
        return [_project_row(row) for row in rows]


def _project_row(row: Mapping[str, Any]) -> ProjectRow:
    return ProjectRow(**row)
