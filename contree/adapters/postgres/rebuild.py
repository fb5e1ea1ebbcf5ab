"""Folds the whole log into fresh read models: to replace the live ones, or to compare with them.

    rebuild   fold aside while the service runs, then, appends held back for a moment, fold what
              came meanwhile and swap; readers see the old tables or the new, nothing between
    compare   fold aside, and compare row by row as of one moment of the log

Both take the work queue along, which the log tells too. It never touches the log, leases, secrets
or journals.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
from eventsourcing.persistence import StoredEvent

from contree.adapters.postgres.byte_bound import by_bytes
from contree.adapters.postgres.compare import Difference, compare_table
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.pool import READ_SCHEMA, connect_as_owner
from contree.adapters.postgres.queue_check import compare_queue, set_queue_right
from contree.adapters.postgres.read_models import make_read_models
from contree.adapters.postgres.statement import LOCK_LOG, runs
from contree.adapters.postgres.transcoder import event_mapper
from contree.app.projection import Change, Projection
from contree.app.recorded_log import BATCH_BYTES_MAX, is_full
from contree.domain.aggregate import Event
from contree.domain.errors import UnavailableError

BATCH_EVENTS = 5000
LOCK_KEY = 0x636F6E7472656532
"""`contree2`: the advisory lock of rebuilds and comparisons."""
SWAP_LOCK_TIMEOUT = "500ms"
"""Below deadlock_timeout (1 s): if a swap and an append wait for each other, the swap gives way."""
SWAP_ATTEMPTS_MAX = 60
REBUILT_SCHEMA = "read_rebuilt"
_OPERATIONS = "operations"
"""The read model that the work queue is held against."""


EVENTS = by_bytes(
    "originator_id, originator_version, topic, state, notification_id",
    where="notification_id > $1",
    rows_max="$2",
    bytes_max="$3",
)
# Changes find their rows by primary key: other indexes are only in the way of a fold.
OTHER_INDEXES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_get_indexdef(c.oid) AS definition "
    "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = $1 AND NOT i.indisunique ORDER BY 1"
)
TABLES = (
    "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ' ORDER BY tablename) "
    "FROM pg_tables WHERE schemaname = $1"
)

Progress = Callable[[int], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did. `last_id` is the id of the last event in it, 0 for an empty log."""

    event_count: int
    last_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a comparison found; `differences` is cut off at compare.DIFFERENCES_MAX a table.

    row_counts   rows of each live table that was compared
    """

    event_count: int
    row_counts: Mapping[str, int]
    differences: tuple[Difference, ...]


async def rebuild(
    dsn: str, *, projections: Sequence[Projection], progress: Progress | None = None
) -> Rebuilt:
    """Replace the read models of the database of `dsn` (an owner's), also while it is in use.

    `progress` is called with the number of events folded so far. Raises UnavailableError when the
    database is away, when another rebuild is at work, or when the swap finds no quiet moment.
    """
    async with _fold(dsn, projections, progress) as fold:
        await fold.run_to_end()
        await fold.finish()
        for _ in range(SWAP_ATTEMPTS_MAX):
            try:
                await _swap(fold)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - jitter
                await fold.run_to_end()
            else:
                return Rebuilt(event_count=fold.event_count, last_id=fold.last_id)
        raise UnavailableError(
            "the read models are in use without a pause: something holds locks on them"
        )


async def compare(
    dsn: str, *, projections: Sequence[Projection], progress: Progress | None = None
) -> Compared:
    """Compare the live read models with freshly folded ones; changes nothing. Raises as `rebuild`.

    Both are seen as of one event: reads and log change in the same transactions.
    """
    async with _fold(dsn, projections, progress) as fold:
        await fold.run_to_end()
        async with fold.connection.transaction(isolation="repeatable_read"):
            await fold.run_to_end()
            tables = [
                await compare_table(
                    fold.connection, table, live=READ_SCHEMA, rebuilt=REBUILT_SCHEMA
                )
                for projection in projections
                for table in projection.tables
            ]
            if fold.has(_OPERATIONS):
                tables.append(await compare_queue(fold.connection, rebuilt=REBUILT_SCHEMA))
        return Compared(
            event_count=fold.event_count,
            row_counts={table.table: table.row_count for table in tables},
            differences=tuple(found for table in tables for found in table.differences),
        )


@asynccontextmanager
async def connected_aside(dsn: str, schema: str) -> AsyncIterator[asyncpg.Connection]:
    """An owner's connection, alone at such work, for a `schema` that is gone before and after.

    Raises UnavailableError, also while another rebuild or comparison is at work.
    """
    connection = await connect_as_owner(dsn)
    drop = f"DROP SCHEMA IF EXISTS {schema} CASCADE"
    try:
        with translated():
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
                raise UnavailableError("another rebuild of the read models is running")
            try:
                await connection.execute(drop)
                yield connection
            finally:
                if not connection.is_closed():
                    await connection.execute(drop)
                    # The server takes a moment to notice that a connection is closed.
                    await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
    finally:
        await connection.close()


async def drop_other_indexes(connection: asyncpg.Connection, schema: str) -> Sequence[str]:
    """Drop the indexes of `schema` that a fold has no use for; return what makes them again."""
    indexes = await connection.fetch(OTHER_INDEXES, schema)
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    return [index["definition"] for index in indexes]


async def _swap(fold: _Fold) -> None:
    """Fold what is left and put the new tables into place, in one transaction.

    Tables first, the log's lock second: the order in which an append takes them.
    """
    connection = fold.connection
    position = fold.position
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{SWAP_LOCK_TIMEOUT}'")
            if (tables := await connection.fetchval(TABLES, READ_SCHEMA)) is not None:
                await connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            await connection.execute(LOCK_LOG)
            await fold.run_to_end()
            if fold.has(_OPERATIONS):
                await set_queue_right(connection, rebuilt=REBUILT_SCHEMA)
            await connection.execute(
                f"DROP SCHEMA IF EXISTS {READ_SCHEMA} CASCADE;"
                f"ALTER SCHEMA {REBUILT_SCHEMA} RENAME TO {READ_SCHEMA}"
            )
    except BaseException:
        fold.position = position
        raise


@asynccontextmanager
async def _fold(
    dsn: str, projections: Sequence[Projection], progress: Progress | None
) -> AsyncIterator[_Fold]:
    """Empty tables aside, and what fills them; gone at the end unless they were put into place."""
    async with connected_aside(dsn, REBUILT_SCHEMA) as connection:
        async with connection.transaction():
            await make_read_models(connection, projections, schema=REBUILT_SCHEMA)
            indexes = await drop_other_indexes(connection, REBUILT_SCHEMA)
        await connection.execute(f"SET search_path = {REBUILT_SCHEMA}, public")
        yield _Fold(connection, projections, progress, indexes)


class _Fold:
    """Reads the log from `position` (last id, number of events) and applies it."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        projections: Sequence[Projection],
        progress: Progress | None,
        indexes: Sequence[str],
    ) -> None:
        self.connection = connection
        self.position = (0, 0)
        self._indexes = tuple(indexes)
        self._projections = tuple(projections)
        self._progress = progress
        self._mapper = event_mapper()

    def has(self, table: str) -> bool:
        return any(table in projection.tables for projection in self._projections)

    @property
    def last_id(self) -> int:
        return self.position[0]

    @property
    def event_count(self) -> int:
        return self.position[1]

    async def finish(self) -> None:
        """Make the tables fit for use: their indexes, and what the planner must know of them."""
        for definition in self._indexes:
            await self.connection.execute(definition)
        tables = await self.connection.fetchval(TABLES, REBUILT_SCHEMA)
        await self.connection.execute(f"ANALYZE {tables}")

    async def run_to_end(self) -> None:
        """Apply what the log holds by now: all of it where nobody can append meanwhile.

        The next batch is decoded in a thread while the database works on this one.
        """
        rows = await self._rows_after(self.last_id)
        changes = await asyncio.to_thread(self._changes, rows)
        while rows:
            # A batch that is not full was the end a moment ago; do not chase those who go on
            # writing.
            full = is_full([row["state"] for row in rows], rows_max=BATCH_EVENTS)
            following = await self._rows_after(rows[-1]["notification_id"]) if full else []
            async with self.connection.transaction():
                _, following_changes = await asyncio.gather(
                    self._apply(changes), asyncio.to_thread(self._changes, following)
                )
            self.position = (rows[-1]["notification_id"], self.event_count + len(rows))
            if self._progress is not None:
                self._progress(self.event_count)
            rows, changes = following, following_changes

    async def _rows_after(self, last_id: int) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = await self.connection.fetch(
            EVENTS, last_id, BATCH_EVENTS, BATCH_BYTES_MAX
        )
        return rows

    def _changes(self, rows: Sequence[Mapping[str, Any]]) -> list[Change]:
        return [
            change
            for event in map(self._event, rows)
            for projection in self._projections
            for change in projection.apply(event)
        ]

    async def _apply(self, changes: Sequence[Change]) -> None:
        for statement, rows in runs(changes):
            await self.connection.executemany(statement, rows)

    def _event(self, row: Mapping[str, Any]) -> Event:
        stored = StoredEvent(
            row["originator_id"], row["originator_version"], row["topic"], row["state"]
        )
        return cast(Event, self._mapper.to_domain_event(stored))
