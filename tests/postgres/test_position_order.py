"""Ids are in commit order: writers race, with pauses inside transactions, before a tailing reader.

Writers are plain SQL sessions, as a stock tool would be, beside our own appends.
"""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from contree.adapters.postgres.chain import verify_chain
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.projections import ALL
from tests.support.histories import History

pytestmark = pytest.mark.postgres

APPEND = (
    "INSERT INTO public.stored_events (originator_id, originator_version, topic, state) "
    "VALUES (gen_random_uuid(), 1, 'test', $1)"
)


async def write(dsn: str, seed: int, *, count: int) -> None:
    choices = random.Random(seed)
    connection = await asyncpg.connect(dsn)
    for number in range(count):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(APPEND, b"%d %d" % (seed, number))
        if choices.random() < 0.3:
            await asyncio.sleep(choices.random() * 0.004)
        await (transaction.rollback() if choices.random() < 0.2 else transaction.commit())
    await connection.close()


async def follow(dsn: str, done: asyncio.Event) -> list[int]:
    """Read on from the last id seen, as every follower of the log does."""
    connection = await asyncpg.connect(dsn)
    seen: list[int] = []
    last = 0
    while True:
        ended = done.is_set()
        rows = await connection.fetch(
            "SELECT notification_id FROM stored_events WHERE notification_id > $1 "
            "ORDER BY notification_id",
            last,
        )
        seen += [row["notification_id"] for row in rows]
        last = seen[-1] if seen else 0
        if ended:
            await connection.close()
            return seen


async def test_a_tailing_reader_misses_nothing_of_racing_writers(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    done = asyncio.Event()
    follower = asyncio.create_task(follow(postgres_dsn, done))
    log, history = PostgresEventLog(postgres_pool, ALL), History(5)

    async def our_own() -> None:
        for touched in history.steps(100):
            await log.append(*touched)

    await asyncio.gather(our_own(), *(write(postgres_dsn, n, count=80) for n in range(6)))
    done.set()
    seen = await follower
    rows = await postgres_pool.fetch("SELECT notification_id FROM public.stored_events")
    assert len(rows) > 300
    assert seen == sorted(row["notification_id"] for row in rows)
    assert (await verify_chain(postgres_pool)).broken_at is None
