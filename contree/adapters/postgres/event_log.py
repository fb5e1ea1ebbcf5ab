"""The event log on PostgreSQL (app.event_log.EventLog): load, append with read models, sealed.

One statement appends the events and changes the read models, queue and secrets; the triggers of
migrations/001_event_log.sql order, chain and announce it. It never changes or removes an event.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast
from uuid import UUID

import asyncpg
from eventsourcing.persistence import StoredEvent

from contree.adapters.postgres import coordination
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.group_commit import GroupCommit
from contree.adapters.postgres.read_models import guard_of
from contree.adapters.postgres.statement import statements
from contree.adapters.postgres.transcoder import event_mapper
from contree.app.event_log import EVENT_BYTES_MAX
from contree.app.projection import Change, Projection
from contree.domain.aggregate import Aggregate, Event, fold, later_event_types
from contree.domain.errors import EventTooLargeError

A = TypeVar("A", bound=Aggregate)

COLUMNS = "SELECT originator_id, originator_version, topic, state FROM public.stored_events"
EVENTS_OF = (
    f"{COLUMNS} WHERE originator_id = ANY($1::uuid[]) ORDER BY originator_id, originator_version"
)
FIRST = f"{COLUMNS} WHERE originator_id = $1 AND originator_version = 1"
# With a literal topic: the planner must see that migrations/008_last_events.sql indexes it.
LAST = (
    f"{COLUMNS} WHERE originator_id = $1 AND topic = '{{topic}}' "
    "ORDER BY originator_version DESC LIMIT 1"
)
SEALED = "SELECT sealed FROM public.sealed_secrets WHERE operation_id = $1"


_log = logging.getLogger(__name__)


class PostgresEventLog:
    """Loads aggregates and appends their pending events, with `projections` in step."""

    def __init__(self, pool: asyncpg.Pool, projections: Sequence[Projection]) -> None:
        self._pool = pool
        self._projections = tuple(projections)
        self._guards = (guard_of(projections),) if projections else ()
        self._mapper = event_mapper()
        self._commits = GroupCommit(pool)

    async def load(self, cls: type[A], aggregate_id: UUID) -> A | None:
        with translated():
            if cls.OVERWRITES:
                rows = await self._pool.fetch(telling_events(cls), aggregate_id)
            else:
                rows = await self._pool.fetch(EVENTS_OF, [aggregate_id])
        return self.folded(cls, rows).get(aggregate_id)

    async def append(
        self, *aggregates: Aggregate, seal: Mapping[UUID, bytes] | None = None
    ) -> None:
        pending = [cast(Event, event) for a in aggregates for event in a.collect_events()]
        if not pending:
            return
        with translated():
            parts = self._parts(pending, coordination.seal_changes(seal or {}))
            if len(parts) == 1:
                text, arguments = parts[0]
                await self._commits.execute(text, arguments)
                return
            async with self._pool.acquire() as connection, connection.transaction():
                for text, arguments in parts:
                    await connection.execute(text, *arguments)

    async def sealed(self, operation_id: UUID) -> bytes | None:
        with translated():
            sealed: bytes | None = await self._pool.fetchval(SEALED, operation_id)
        return sealed

    def folded(self, cls: type[A], rows: Iterable[Mapping[str, Any]]) -> dict[UUID, A]:
        """Fold rows into aggregates by id; those of other classes are left out.

        The rows are of EVENTS_OF, or of `telling_events`.
        """
        found = fold(map(self._event, rows))
        return {id_: aggregate for id_, aggregate in found.items() if isinstance(aggregate, cls)}

    def _event(self, row: Mapping[str, Any]) -> Event:
        stored = StoredEvent(
            row["originator_id"], row["originator_version"], row["topic"], row["state"]
        )
        return cast(Event, self._mapper.to_domain_event(stored))

    def _parts(
        self, pending: Sequence[Event], extra: Sequence[Change]
    ) -> list[tuple[str, tuple[Any, ...]]]:
        changes = list(extra)
        for event in pending:
            for projection in self._projections:
                changes += projection.apply(event)
            changes += coordination.changes_of(event)
        stored = [self._mapper.to_stored_event(event) for event in pending]
        for one in stored:
            if len(one.state) > EVENT_BYTES_MAX:
                _log.error("%s %s is not recorded", one.topic, one.originator_id)
                raise EventTooLargeError(one.topic, len(one.state), bytes_max=EVENT_BYTES_MAX)
        return statements(stored, changes, guards=self._guards)


@cache
def telling_events(cls: type[Aggregate]) -> str:
    """Return the query for the events that tell the state of a `cls` that OVERWRITES.

    It reads the first event and the last one of each kind, however many there are.
    """
    lasts = (f"({LAST.format(topic=topic)})" for topic in later_event_types(cls))
    return " UNION ALL ".join((FIRST, *lasts)) + " ORDER BY originator_version"
