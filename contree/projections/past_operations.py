"""Operations as of a position of the log (app.audit.audit_reads.OperationsSeen).

Which operations there were, and which had ended, is the audit index's to say. One that had ended is
today's row: ends are final. One that was alive is today's row with its progress folded again from
its events up to the position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from contree.app.projection import Database
from contree.app.reads import OperationRow, Page
from contree.domain import operation as op
from contree.domain.aggregate import Event
from contree.domain.operation import Kind, Status
from contree.projections.operation_reads import SqlOperationReads
from contree.projections.query import Query

FOUND = "SELECT o.operation_id, coalesce(o.ended <= $1, false) AS ended FROM audit.operations o"
LATEST = (
    "(SELECT e.latest_at FROM audit.entries e WHERE e.position <= $1 "
    "ORDER BY e.position DESC LIMIT 1)"
)
"""Nothing known then was created later, by whatever clock: where a walk back may begin."""

NEWEST_FIRST = "o.created_at DESC, o.operation_id DESC"
EVENTS = (
    "SELECT originator_id, originator_version, topic, state FROM public.stored_events "
    "WHERE originator_id = ANY($1::uuid[]) AND notification_id <= $2 "
    "ORDER BY originator_id, originator_version"
)
ALIVE_BATCH = 1000


class EventDecoder(Protocol):
    """Turns a row of the log into the event of the domain."""

    def __call__(self, aggregate_id: UUID, version: int, topic: str, state: bytes, /) -> Event: ...


class PastOperations:
    """The operations as of `position`."""

    def __init__(self, database: Database, position: int, *, decode_event: EventDecoder) -> None:
        self._database = database
        self._position = position
        self._decode_event = decode_event
        self._present = SqlOperationReads(database)

    async def get(self, project_id: UUID, operation_id: UUID) -> OperationRow | None:
        query = self._query(project_id)
        query.where("o.operation_id = {}", operation_id)
        rows = await self._rows(project_id, await self._fetch(query))
        return rows[0] if rows else None

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationRow]:
        query = self._query(project_id)
        if kind is not None:
            query.where("o.kind = {}", kind.value)
        if status is not None and not status.is_terminal:
            return await self._alive(query, project_id, page, status)
        query.where(f"o.created_at <= {LATEST}")
        if status is not None:
            query.where("o.status = {} AND o.ended <= $1", status.value)
        statement = query.page(page, created_at="o.created_at", order=NEWEST_FIRST)
        return await self._rows(project_id, await self._database.fetch(statement, *query.arguments))

    async def _alive(
        self, query: Query, project_id: UUID, page: Page, status: Status
    ) -> Sequence[OperationRow]:
        """Return the page of those that were in a state that ends: few live at any moment."""
        query.where("int8range(o.requested, o.ended) @> $1::bigint")
        everything = replace(page, limit=2**31 - 1, offset=0)
        statement = query.page(everything, created_at="o.created_at", order=NEWEST_FIRST)
        alive = await self._database.fetch(statement, *query.arguments)
        found: list[OperationRow] = []
        wanted_count = page.offset + page.limit
        for start in range(0, len(alive), ALIVE_BATCH):
            rows = await self._rows(project_id, alive[start : start + ALIVE_BATCH])
            found += [row for row in rows if row.status is status]
            if len(found) >= wanted_count:
                break
        return found[page.offset : wanted_count]

    def _query(self, project_id: UUID) -> Query:
        """The operations of the project that were known then; `$1` is the position."""
        query = Query(FOUND)
        query.bound(self._position)
        query.where("o.requested <= $1")
        query.where("o.project_id = {}", project_id)
        return query

    async def _fetch(self, query: Query) -> Sequence[Mapping[str, Any]]:
        return await self._database.fetch(query.text(), *query.arguments)

    async def _rows(
        self, project_id: UUID, found: Sequence[Mapping[str, Any]]
    ) -> Sequence[OperationRow]:
        """Return the rows of what was found, in its order."""
        present = await self._present.many(project_id, [row["operation_id"] for row in found])
        rows = {
            row["operation_id"]: present[row["operation_id"]]
            if row["ended"]
            else _as_requested(present[row["operation_id"]])
            for row in found
        }
        if alive := [row["operation_id"] for row in found if not row["ended"]]:
            for event in await self._database.fetch(EVENTS, alive, self._position):
                id_ = event["originator_id"]
                decoded = self._decode_event(
                    id_, event["originator_version"], event["topic"], event["state"]
                )
                rows[id_] = _followed(rows[id_], decoded)
        return list(rows.values())


def _as_requested(row: OperationRow) -> OperationRow:
    """The row as it was when the operation had just been requested."""
    return replace(
        row,
        **_progress(Status.PENDING),
        error=None,
        finished_at=None,
        duration_us=0,
        result_image_id=None,
        result_tag=None,
        image_size_bytes=None,
        outcome=None,
    )


def _followed(row: OperationRow, event: Event) -> OperationRow:
    """What an event before the end means for the row, as OperationsProjection has it."""
    match event:
        case op.OperationAssigned():
            return replace(row, **_progress(Status.ASSIGNED, event.worker, event.timestamp))
        case op.OperationStarted():
            return replace(row, status=Status.EXECUTING)
        case op.OperationRequeued():
            return replace(row, **_progress(Status.PENDING))
        case _:
            return row


def _progress(
    status: Status, worker: str | None = None, started_at: datetime | None = None
) -> dict[str, Any]:
    return {"status": status, "worker": worker, "started_at": started_at}
