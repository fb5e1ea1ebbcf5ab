"""The reads over the `operations` table (app.reads.OperationReads)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from contree.app.projection import Database
from contree.app.reads import OperationRow, OperationSummary, Page, UnderWay
from contree.domain.operation import Kind, Status
from contree.projections.query import Query
from contree.projections.together import Together

SUMMARY = (
    "operation_id, project_id, kind, status, error, created_at, started_at, finished_at, "
    "duration_us, worker, image_id, result_image_id, result_tag, image_size_bytes, outcome, "
    "replay_of"
)
SELECT = f"SELECT {SUMMARY}, request FROM operations"  # noqa: S608 - a constant
SELECT_SUMMARIES = f"SELECT {SUMMARY} FROM operations"  # noqa: S608 - a constant
"""For lists: requests are most of what there is to read, and are not shown."""

PROJECT_OF = "SELECT project_id FROM operations WHERE operation_id = $1"
COUNTS = (
    "SELECT status, count(*) AS operations FROM operations WHERE project_id = $1 GROUP BY status"
)
AS_MANY_WAIT = (
    "SELECT EXISTS (SELECT FROM operations WHERE project_id = $1 AND status = 'PENDING' OFFSET $2) "
    "AS as_many"
)
UNDER_WAY = (  # each half has an index of its own, which the whole would not be answered from
    "SELECT kind, status, NULL AS worker, count(*) AS operations FROM operations "
    "WHERE status = 'PENDING' GROUP BY kind, status "
    "UNION ALL SELECT kind, status, worker, count(*) FROM operations "
    "WHERE status IN ('ASSIGNED', 'EXECUTING') GROUP BY kind, status, worker"
)


class SqlOperationReads:
    """Rows of `operations`; `duration_us` is 0 until the end, then the one recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_id = Together(self._of)

    async def get(self, project_id: UUID, operation_id: UUID) -> OperationRow | None:
        row = await self._by_id.get(operation_id)
        return None if row is None or row.project_id != project_id else row

    async def _of(self, operation_ids: Sequence[UUID]) -> Mapping[UUID, OperationRow]:
        if len(operation_ids) == 1:  # a plan that is made once, whatever the key
            rows = await self._database.fetch(f"{SELECT} WHERE operation_id = $1", operation_ids[0])
        else:
            rows = await self._database.fetch(
                f"{SELECT} WHERE operation_id = ANY($1::uuid[])", operation_ids
            )
        return {row["operation_id"]: _operation_row(row) for row in rows}

    async def many(
        self, project_id: UUID, operation_ids: Sequence[UUID]
    ) -> Mapping[UUID, OperationSummary]:
        """Return those of the operations that the project has, by id."""
        query = Query(SELECT_SUMMARIES, project_id=project_id)
        query.where("operation_id = ANY({}::uuid[])", operation_ids)
        rows = await self._database.fetch(query.text(), *query.arguments)
        return {row["operation_id"]: OperationSummary(**_summary(row)) for row in rows}

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationSummary]:
        query = Query(
            SELECT_SUMMARIES,
            project_id=project_id,
            status=None if status is None else status.value,
            kind=None if kind is None else kind.value,
        )
        order = "created_at DESC, operation_id DESC"
        statement = query.page(page, created_at="created_at", order=order)
        rows = await self._database.fetch(statement, *query.arguments)
        return [OperationSummary(**_summary(row)) for row in rows]

    async def project_of(self, operation_id: UUID) -> UUID | None:
        row = await self._database.fetchrow(PROJECT_OF, operation_id)
        return None if row is None else row["project_id"]

    async def counts(self, project_id: UUID) -> Mapping[str, int]:
        rows = await self._database.fetch(COUNTS, project_id)
        found = {row["status"]: row["operations"] for row in rows}
        return {status.value: found.get(status.value, 0) for status in Status}

    async def as_many_wait(self, project_id: UUID, number: int) -> bool:
        row = await self._database.fetchrow(AS_MANY_WAIT, project_id, number - 1)
        return row is not None and row["as_many"]

    async def under_way(self) -> Sequence[UnderWay]:
        rows = await self._database.fetch(UNDER_WAY)
        return [
            UnderWay(**{**row, "kind": Kind(row["kind"]), "status": Status(row["status"])})
            for row in rows
        ]


def _operation_row(row: Mapping[str, Any]) -> OperationRow:
    return OperationRow(**{**_summary(row), "request": orjson.loads(row["request"])})


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    outcome = row["outcome"]
    return {
        **row,
        "kind": Kind(row["kind"]),
        "status": Status(row["status"]),
        "outcome": None if outcome is None else orjson.loads(outcome),
    }
