"""The log's rows as bytes (app.proof.log_rows.LogRows), by COPY in the binary format.

What PostgreSQL sends for the columns below is, after 19 bytes at the start and with 2 bytes before
each row and 4 before each field (their count, their length), exactly what hashes cover: only the
lengths of the first four fields have to be cut out. No value is decoded.

    2 | 4 8 position | 4 16 aggregate | 4 8 version | 4 8 time | 4 topic | 4 state | 4 32 hash
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from uuid import UUID

import asyncpg

from contree.adapters.postgres.byte_bound import by_bytes
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.recorded_log import FIELDS, recorded_event
from contree.app.proof.log_rows import OddRowError, RawRow
from contree.app.recorded_log import BATCH_BYTES_MAX, RecordedEvent
from contree.domain.errors import UnavailableError
from contree.domain.log_row import position_in

BATCH_ROWS = 10_000
COUNT_ROWS = 1_000_000
"""Positions that one query counts: the whole log at once would outlast any query's time."""

ROWS = by_bytes(
    "notification_id, originator_id, originator_version, recorded_at, topic, state, hash",
    where="notification_id > $1 AND notification_id <= $2",
    rows_max="$3",
    bytes_max="$4",
)
FIRST = (
    "SELECT min(notification_id) FROM public.stored_events "
    "WHERE notification_id > $1 AND notification_id <= $2"
)
COUNT = (
    "SELECT count(*) FROM public.stored_events "
    "WHERE notification_id >= $1 AND notification_id <= $2"
)
NOWHERE = "SELECT count(*) FROM public.stored_events WHERE notification_id IS NULL"
HASH_AT = (
    "SELECT notification_id, hash FROM public.stored_events WHERE notification_id <= $1 "
    "ORDER BY notification_id DESC LIMIT 1"
)
OF_AGGREGATES = (
    f"SELECT {FIELDS} FROM public.stored_events WHERE originator_id = ANY($1) "  # noqa: S608 - constants
    "ORDER BY notification_id LIMIT $2"
)

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES = 19
END = b"\xff\xff"
ROW_START = b"\x00\x07\x00\x00\x00\x08"
HASH_START = b"\x00\x00\x00\x20"
TOPIC_AT = 58
"""Where the length of the topic is, from the start of a row: all before it has a fixed size."""


class PostgresLogRows:
    """Reads over the service's pool."""

    def __init__(
        self, pool: asyncpg.Pool, *, batch_rows: int = BATCH_ROWS, count_rows: int = COUNT_ROWS
    ) -> None:
        self._pool = pool
        self._batch_rows = batch_rows
        self._count_rows = count_rows

    async def stream(self, *, after: int, until: int) -> AsyncGenerator[Sequence[RawRow], None]:
        while rows := await self._copied(after, until):
            yield rows
            after = position_in(rows[-1][0])

    async def count(self, *, after: int, until: int) -> int:
        with translated():
            count: int = await self._pool.fetchval(NOWHERE)
            while (first := await self._pool.fetchval(FIRST, after, until)) is not None:
                after = min(first + self._count_rows - 1, until)
                count += await self._pool.fetchval(COUNT, first, after)
            return count

    async def hash_at(self, position: int) -> tuple[int, bytes] | None:
        with translated():
            row = await self._pool.fetchrow(HASH_AT, position)
        return None if row is None else (row["notification_id"], row["hash"])

    async def of_aggregates(self, ids: Collection[UUID], *, limit: int) -> Sequence[RecordedEvent]:
        with translated():
            rows = await self._pool.fetch(OF_AGGREGATES, list(ids), limit)
        return [recorded_event(row) for row in rows]

    async def _copied(self, after: int, until: int) -> list[RawRow]:
        pieces: list[bytes] = []

        async def take(data: bytes) -> None:
            pieces.append(data)

        with translated():
            await self._pool.copy_from_query(
                ROWS,
                *(after, until, self._batch_rows, BATCH_BYTES_MAX),
                output=take,
                format="binary",
            )
        return rows_in(b"".join(pieces))


def rows_in(copied: bytes) -> list[RawRow]:
    """Take a binary COPY of the columns above apart. Raises UnavailableError when it is cut off."""
    if not copied.startswith(SIGNATURE) or not copied.endswith(END):
        raise UnavailableError("the database broke off while it sent the log")
    rows: list[RawRow] = []
    add, number = rows.append, int.from_bytes
    at, end = HEADER_BYTES, len(copied) - len(END)
    while at < end:
        topic = at + TOPIC_AT
        state = topic + 4 + number(copied[topic : topic + 4], "big")
        hash_ = state + 4 + number(copied[state : state + 4], "big")
        if copied[at : at + 6] != ROW_START or copied[hash_ : hash_ + 4] != HASH_START:
            raise _odd_row(rows)
        add(
            (
                copied[at + 6 : at + 14]
                + copied[at + 18 : at + 34]
                + copied[at + 38 : at + 46]
                + copied[at + 50 : hash_],
                copied[hash_ + 4 : hash_ + 36],
            )
        )
        at = hash_ + 36
    if at != end:
        raise _odd_row(rows)
    return rows


def _odd_row(rows: Sequence[RawRow]) -> OddRowError:
    after = f"after position {position_in(rows[-1][0])}" if rows else "at the start of this batch"
    return OddRowError(
        f"the row {after} is not what the log's table takes: a value is missing, or its hash is "
        "not 32 bytes long"
    )
