"""Operations as of a position of the log (app.audit.audit_reads.OperationsSeen).

Which operations there were, and which had ended, is the audit index's to say. One that had ended is
today's row: ends are final. One that was alive is today's row with its progress folded again from
its events up to the position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from contree.app.projection import Database
from contree.app.reads import OperationRow, OperationSummary, Page
from contree.domain import operation as op
from contree.domain.aggregate import Event
from contree.domain.operation import Kind, Status
from contree.projections.operation_reads import SqlOperationReads
from contree.projections.query import Query

FOUND = (
    "SELECT o.operation_id, o.created_at, coalesce(o.ended <= $1, false) AS ended "
    "FROM audit.operations o"
)
LATEST = (
    "(SELECT e.latest_at FROM audit.entries e WHERE e.position <= $1 "
    "ORDER BY e.position DESC LIMIT 1)"
)
"""Nothing known then was created later, by whatever clock: where a walk back may begin."""

NEWEST_FIRST = "o.created_at DESC, o.operation_id DESC"
EVENTS = (
    "SELECT originator_id, originator_version, topic, state FROM public.stored_events "
    "WHERE originator_id = ANY($1::uuid[]) AND notification_id <= $2 AND topic = ANY($3::text[]) "
    "ORDER BY originator_id, originator_version"
)
FOLDED = [
    op.OperationAssigned.TOPIC,
    op.OperationStarted.TOPIC,
    op.OperationRequeued.TOPIC,
]
"""What moves an operation before its end; its requests and processes need not be read."""

ALIVE_BATCH = 1000

Row = TypeVar("Row", bound=OperationSummary)


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
        found = await self._fetch(query)
        present = await self._present.get(project_id, operation_id) if found else None
        if present is None:
            return None
        (row,) = await self._then(found, {operation_id: present})
        return row

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationSummary]:
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
    ) -> Sequence[OperationSummary]:
        """Return the page of those that were in a state that ends.

        In which one each was has to be folded, so all that lived then are walked through, a batch
        at a time; only the page is kept.
        """
        query.where("int8range(o.requested, o.ended) @> $1::bigint")
        at, id_ = query.bound(None), query.bound(None)
        last = slice(len(query.arguments) - 2, len(query.arguments))
        query.where(
            f"({at}::timestamptz IS NULL OR (o.created_at, o.operation_id) < ({at}, {id_}::uuid))"
        )
        batch_of = replace(page, limit=ALIVE_BATCH, offset=0)
        statement = query.page(batch_of, created_at="o.created_at", order=NEWEST_FIRST)
        kept: list[OperationSummary] = []
        passed_over = 0
        while alive := await self._database.fetch(statement, *query.arguments):
            for row in await self._rows(project_id, alive):
                if row.status is not status:
                    continue
                if passed_over < page.offset:
                    passed_over += 1
                    continue
                kept.append(row)
                if len(kept) == page.limit:
                    return kept
            if len(alive) < ALIVE_BATCH:
                break
            query.arguments[last] = alive[-1]["created_at"], alive[-1]["operation_id"]
        return kept

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
    ) -> Sequence[OperationSummary]:
        """Return the rows of what was found, in its order."""
        present = await self._present.many(project_id, [row["operation_id"] for row in found])
        return await self._then(found, present)

    async def _then(
        self, found: Sequence[Mapping[str, Any]], present: Mapping[UUID, Row]
    ) -> Sequence[Row]:
        """Return today's rows of what was found as they were then."""
        rows = {
            row["operation_id"]: present[row["operation_id"]]
            if row["ended"]
            else _as_requested(present[row["operation_id"]])
            for row in found
        }
        if alive := [row["operation_id"] for row in found if not row["ended"]]:
            for event in await self._database.fetch(EVENTS, alive, self._position, FOLDED):
                id_ = event["originator_id"]
                decoded = self._decode_event(
                    id_, event["originator_version"], event["topic"], event["state"]
                )
                rows[id_] = _followed(rows[id_], decoded)
        return list(rows.values())


def _as_requested(row: Row) -> Row:
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


def _followed(row: Row, event: Event) -> Row:
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
