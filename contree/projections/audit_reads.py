"""Answers about the recorded history (app.audit.audit_reads.AuditReads), over the audit index.

The index finds positions; each event that is shown comes from the log, as it lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from contree.app.audit.audit_index import NEVER
from contree.app.audit.audit_reads import (
    PAGE_BYTES_MAX,
    SCAN_POSITIONS_MAX,
    AuditEntry,
    AuditFilter,
    FoundEntries,
    Lineage,
    Span,
)
from contree.app.projection import Database
from contree.app.recorded_log import RecordedEvent, is_full
from contree.projections.lineage import SqlLineage
from contree.projections.query import NUL, Query

EVENTS = (
    "SELECT notification_id, originator_id, originator_version, topic, state, recorded_at, hash "
    "FROM (SELECT l.*, sum(octet_length(l.state)) OVER "
    "(ORDER BY found.position{0} ROWS UNBOUNDED PRECEDING) - octet_length(l.state) AS before_bytes "
    "FROM ({1} ORDER BY position{0} LIMIT {2}) found "
    "JOIN public.stored_events l ON l.notification_id = found.position) sized "
    "WHERE before_bytes < {3} ORDER BY notification_id{0}"
)
"""The positions first, by the index that finds them; then the rows of the log that fill a page."""

ENTRIES = "SELECT e.position FROM audit.entries e"
MENTIONS = "SELECT m.position FROM audit.mentions m JOIN audit.entries e ON e.position = m.position"
LAST_AT = (
    "SELECT position FROM audit.entries WHERE log_time {} $1 "
    "ORDER BY log_time DESC, position DESC LIMIT 1"
)
TIME_OF = "SELECT log_time FROM audit.entries WHERE position <= $1 ORDER BY position DESC LIMIT 1"
INDEX_END = "SELECT position FROM audit.follower"

Decode = Callable[[bytes], Mapping[str, Any]]


class SqlAuditReads:
    """`decode` turns the bytes of an event into its fields."""

    def __init__(self, database: Database, *, decode: Decode) -> None:
        self._database = database
        self._decode = decode
        self._lineage = SqlLineage(database)

    async def entries(
        self, wanted: AuditFilter, span: Span, *, limit: int, newest_first: bool = False
    ) -> FoundEntries:
        if NUL in (wanted.actor or "") or NUL in (wanted.tag or ""):
            return FoundEntries(entries=(), rest=None)
        span = await self._clipped(span)
        window = _window(span, newest_first=newest_first) if _needs_scan(wanted) else span
        query, order = _query(wanted, window), " DESC" if newest_first else ""
        text = query.text()
        statement = EVENTS.format(order, text, query.bound(limit), query.bound(PAGE_BYTES_MAX))
        rows = await self._database.fetch(statement, *query.arguments)
        found = [self._entry(row) for row in rows]
        full = is_full([row["state"] for row in rows], rows_max=limit, bytes_max=PAGE_BYTES_MAX)
        rest = _rest(span, window, found, is_full=full, newest_first=newest_first)
        return FoundEntries(entries=found, rest=rest)

    async def position_at(self, moment: datetime, *, inclusive: bool = True) -> int:
        row = await self._database.fetchrow(LAST_AT.format("<=" if inclusive else "<"), moment)
        return 0 if row is None else int(row["position"])

    async def time_of(self, position: int) -> datetime:
        row = await self._database.fetchrow(TIME_OF, position)
        return NEVER if row is None else row["log_time"]

    async def lineage(
        self, project_id: UUID | None, image_id: UUID, *, depth: int, limit: int
    ) -> Lineage | None:
        return await self._lineage.of(project_id, image_id, depth=depth, limit=limit)

    async def _clipped(self, span: Span) -> Span:
        row = await self._database.fetchrow(INDEX_END)
        end = 0 if row is None else int(row["position"])
        return Span(after=span.after, until=min(span.until, end))

    def _entry(self, row: Mapping[str, Any]) -> AuditEntry:
        event = RecordedEvent(
            position=row["notification_id"],
            aggregate_id=row["originator_id"],
            version=row["originator_version"],
            topic=row["topic"],
            state=row["state"],
            recorded_at=row["recorded_at"],
            hash=row["hash"],
        )
        return AuditEntry(event=event, facts=self._decode(event.state))


def _needs_scan(wanted: AuditFilter) -> bool:
    """Whether no index alone finds what is wanted, so that much may be looked at for little."""
    conditions = (wanted.actor, wanted.operation_id, wanted.image_id, wanted.tag)
    given = sum(condition is not None for condition in conditions)
    if wanted.operation_id is not None:  # one operation has few events
        return False
    return wanted.types is not None or given > 1 or (given == 1 and wanted.project_id is None)


def _window(span: Span, *, newest_first: bool) -> Span:
    """The part of the span that one call looks through."""
    if newest_first:
        return Span(after=max(span.after, span.until - SCAN_POSITIONS_MAX), until=span.until)
    return Span(after=span.after, until=min(span.until, span.after + SCAN_POSITIONS_MAX))


def _rest(
    span: Span,
    window: Span,
    found: Sequence[AuditEntry],
    *,
    is_full: bool,
    newest_first: bool,
) -> Span | None:
    if newest_first:
        last = found[-1].event.position - 1 if is_full else window.after
        return Span(after=span.after, until=last) if last > span.after else None
    last = found[-1].event.position if is_full else window.until
    return Span(after=last, until=span.until) if last < span.until else None


def _query(wanted: AuditFilter, window: Span) -> Query:
    if wanted.image_id is None:
        query, position = Query(ENTRIES), "e.position"
    else:
        query, position = Query(MENTIONS), "m.position"
        query.where("m.image_id = {}", wanted.image_id)
    query.where(f"{position} > {{}} AND {position} <= {{}}", window.after, window.until)
    for column, value in (
        ("e.project_id", wanted.project_id),
        ("e.actor", wanted.actor),
        ("e.operation_id", wanted.operation_id),
        ("e.tag", wanted.tag),
    ):
        if value is not None:
            query.where(f"{column} = {{}}", value)
    if wanted.types is not None:
        query.where("e.type = ANY({}::text[])", list(wanted.types))
    return query
