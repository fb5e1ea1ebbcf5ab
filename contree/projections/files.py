"""Uploaded files of each project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from contree.app.projection import Change, Database
from contree.app.reads import FileRow, Page
from contree.domain.aggregate import Event
from contree.domain.file import FileUploaded, FileUploadedAgain
from contree.projections.query import Query

INSERT = (
    "INSERT INTO files (file_id, project_id, sha256, size_bytes, created_at, updated_at) "
    "VALUES ($1, $2, $3, $4, $5, $5)"
)
REFRESH = "UPDATE files SET updated_at = $2 WHERE file_id = $1"
SELECT = "SELECT file_id, sha256, size_bytes, created_at, updated_at FROM files"


class FilesProjection:
    """The table `files`."""

    tables: tuple[str, ...] = ("files",)
    ddl = """
CREATE TABLE IF NOT EXISTS files (
    file_id    uuid        PRIMARY KEY,
    project_id uuid        NOT NULL,
    sha256     text        NOT NULL,
    size_bytes bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS files_content_idx ON files (project_id, sha256);
CREATE INDEX IF NOT EXISTS files_newest_idx ON files (project_id, created_at DESC, file_id DESC);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        file_id = event.originator_id
        match event:
            case FileUploaded():
                statement = INSERT
                arguments: tuple[object, ...] = (
                    file_id,
                    event.project_id,
                    event.sha256,
                    event.size_bytes,
                    event.timestamp,
                )
            case FileUploadedAgain():
                statement, arguments = REFRESH, (file_id, event.timestamp)
            case _:
                return ()
        return (Change(statement=statement, arguments=arguments, row=("files", file_id)),)


class SqlFileReads:
    """app.reads.FileReads over `files`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_id: UUID, file_id: UUID) -> FileRow | None:
        return await self._one(Query(SELECT, project_id=project_id, file_id=file_id))

    async def many(self, project_id: UUID, file_ids: Sequence[UUID]) -> Mapping[UUID, FileRow]:
        query = Query(SELECT, project_id=project_id)
        query.where("file_id = ANY({}::uuid[])", file_ids)
        rows = await self._database.fetch(query.text(), *query.arguments)
        return {row["file_id"]: _file_row(row) for row in rows}

    async def by_sha256(self, project_id: UUID, sha256: str) -> FileRow | None:
        return await self._one(Query(SELECT, project_id=project_id, sha256=sha256))

    async def list(self, project_id: UUID, page: Page) -> Sequence[FileRow]:
        query = Query(SELECT, project_id=project_id)
        order = "created_at DESC, file_id DESC"
        statement = query.page(page, created_at="created_at", order=order)
        rows = await self._database.fetch(statement, *query.arguments)
        return [_file_row(row) for row in rows]

    async def _one(self, query: Query) -> FileRow | None:
        row = await self._database.fetchrow(query.text(), *query.arguments)
        return None if row is None else _file_row(row)


def _file_row(row: Mapping[str, Any]) -> FileRow:
    return FileRow(**row)
