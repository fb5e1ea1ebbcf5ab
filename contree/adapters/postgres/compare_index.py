"""Compares the audit index with one that is folded aside from the same events; changes nothing.

The index follows the log, so both are seen as of the last event that the index has: what it lacks
behind that is no difference. The fold takes batches and the database compares: memory here does not
grow with the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import asyncpg

from contree.adapters.postgres.audit_index import WIDTHS, Decode, Fold, PostgresAuditIndexer
from contree.adapters.postgres.audit_schema import IndexTables, make_index
from contree.adapters.postgres.compare import Difference, compare_table
from contree.adapters.postgres.rebuild import connected_aside, drop_other_indexes
from contree.adapters.postgres.recorded_log import HEAD, READ, recorded_event
from contree.app.audit.audit_index import Mark
from contree.app.recorded_log import BATCH_BYTES_MAX
from contree.domain.errors import UnavailableError

BATCH_EVENTS = 5000
ASIDE = "audit_rebuilt"
TABLES = tuple(name for name in WIDTHS if name != "ends")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexCompared:
    """What a comparison found.

    position     of the last event in the index, up to which it was compared
    head         of the last event in the log then
    row_counts   rows of each table of the index
    """

    position: int
    head: int
    row_counts: Mapping[str, int]
    differences: tuple[Difference, ...]


async def compare_index(
    dsn: str,
    tables: IndexTables,
    *,
    fold: Fold,
    decode: Decode,
    progress: Progress | None = None,
) -> IndexCompared:
    """Compare the index of the database of `dsn` (an owner's) with what the log folds to.

    `progress` is called with the number of events folded so far. Raises UnavailableError when the
    database is away, when a rebuild or another comparison is at work, or when the index is another
    release's or is made anew meanwhile.
    """
    aside = replace(tables, schema=ASIDE)
    async with connected_aside(dsn, ASIDE) as connection:
        await make_index(connection, aside)
        await drop_other_indexes(connection, ASIDE)
        live, rebuilt = (
            PostgresAuditIndexer(
                connection, fold=fold, decode=decode, fingerprint=of.fingerprint, schema=of.schema
            )
            for of in (tables, aside)
        )
        follow = _Follow(connection, rebuilt, progress)
        await follow.up_to((await live.begin()).position)
        async with connection.transaction(isolation="repeatable_read"):
            mark = await live.begin()
            await follow.up_to(mark.position)
            compared = [
                await compare_table(connection, table, live=tables.schema, rebuilt=ASIDE)
                for table in TABLES
            ]
            head = await connection.fetchval(HEAD) or 0
    return IndexCompared(
        position=mark.position,
        head=head,
        row_counts={table.table: table.row_count for table in compared},
        differences=(
            *_of_marks(mark, follow.mark),
            *(
                replace(found, table=f"{tables.schema}.{table.table}")
                for table in compared
                for found in table.differences
            ),
        ),
    )


class _Follow:
    """Folds the log aside. `mark` is how far it is."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        index: PostgresAuditIndexer,
        progress: Progress | None,
    ) -> None:
        self.mark = Mark()
        self._connection = connection
        self._index = index
        self._progress = progress
        self._count = 0

    async def up_to(self, position: int) -> None:
        """Fold the events up to and with `position`. Raises UnavailableError when beyond it."""
        if position < self.mark.position:
            raise UnavailableError("the audit index was made anew meanwhile: compare it again")
        while self.mark.position < position:
            rows = await self._connection.fetch(
                READ, self.mark.position, BATCH_EVENTS, BATCH_BYTES_MAX
            )
            events = [recorded_event(row) for row in rows if row["notification_id"] <= position]
            if not events:
                return  # no event is at the index's mark, which is then not the one here
            self.mark = await self._index.add(self.mark, events)
            self._count += len(events)
            if self._progress is not None:
                self._progress(self._count)


def _of_marks(live: Mark, rebuilt: Mark) -> list[Difference]:
    columns = tuple(
        name
        for name in ("position", "log_time", "latest_at")
        if getattr(live, name) != getattr(rebuilt, name)
    )
    if not columns:
        return []
    return [Difference(table="audit.follower", key={}, columns=columns, live={}, rebuilt={})]
