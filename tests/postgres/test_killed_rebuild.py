"""Rebuilds killed halfway, by SIGKILL: each a process of its own, stopped where it waits."""

from __future__ import annotations

import asyncio
import signal
import sys

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.projections import ALL
from tests.support.histories import History

pytestmark = pytest.mark.postgres

PROGRAM = """
import asyncio, sys
from contree.adapters.postgres.rebuild import rebuild
from contree.projections import ALL
asyncio.run(rebuild(sys.argv[1], projections=ALL))
"""
REBUILDING = (
    "SELECT wait_event_type = 'Lock' AS waits FROM pg_stat_activity "
    "WHERE application_name = 'contreed owner' AND datname = current_database()"
)
LEFT = "SELECT count(*) FROM pg_tables WHERE schemaname = 'read_rebuilt'"


@pytest.mark.parametrize(
    "where",
    [
        # It waits to read the first events, its new tables made and empty.
        "LOCK TABLE public.stored_events IN ACCESS EXCLUSIVE MODE",
        # It waits to swap, its new tables whole.
        'LOCK TABLE "read".operations IN ACCESS SHARE MODE',
    ],
)
async def test_it_leaves_nothing_wrong_and_the_next_one_works(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, where: str
) -> None:
    log, history = PostgresEventLog(postgres_pool, ALL), History(17)
    for touched in history.steps(100):
        await log.append(*touched)
    holder = await asyncpg.connect(postgres_dsn)
    try:
        async with holder.transaction():
            await holder.execute(where)
            killed = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, postgres_dsn
            )
            await until(holder, REBUILDING)
            killed.kill()
            assert await killed.wait() == -signal.SIGKILL
            await until(holder, f"SELECT NOT EXISTS ({REBUILDING})")
        assert await holder.fetchval(LEFT) > 0  # it was halfway
    finally:
        await holder.close()
    for touched in [history.step() for _ in range(20)]:
        await log.append(*touched)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()
    count = await postgres_pool.fetchval("SELECT count(*) FROM stored_events")
    assert (await rebuild(postgres_dsn, projections=ALL)).event_count == count
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()
    assert await postgres_pool.fetchval(LEFT) == 0


async def until(connection: asyncpg.Connection, condition: str) -> None:
    """Wait until the query says true."""
    for _ in range(1500):
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        if await connection.fetchval(condition):
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come to pass")
