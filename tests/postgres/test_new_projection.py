"""A release adds a read model to a database with history, while the release before still runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.read_models import guard_of
from contree.adapters.postgres.rebuild import compare
from contree.app.projection import Change
from contree.app.reads import Page
from contree.domain.aggregate import Event
from contree.domain.errors import UnavailableError
from contree.domain.operation import Operation
from contree.domain.tag import Tag
from contree.projections import ALL, SqlOperationReads
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.support.histories import History, a_spec, a_subprocess, context_at

pytestmark = pytest.mark.postgres

IDS = FakeIds(space=8)
PROJECT = IDS.new_id()
CONTEXT = context_at(FakeClock(), PROJECT)
COUNTS = 'SELECT aggregate_id, events FROM "read".event_counts ORDER BY aggregate_id'
COUNTED = (
    "SELECT originator_id AS aggregate_id, count(*) AS events FROM public.stored_events "
    "GROUP BY 1 ORDER BY 1"
)


class EventCounts:
    """What the new release adds: how many events each aggregate has."""

    tables: tuple[str, ...] = ("event_counts",)
    ddl = "CREATE TABLE IF NOT EXISTS event_counts (aggregate_id uuid PRIMARY KEY, events bigint)"

    def apply(self, event: Event) -> Sequence[Change]:
        id_ = event.originator_id
        statement = (
            "INSERT INTO event_counts VALUES ($1, 1) "
            "ON CONFLICT (aggregate_id) DO UPDATE SET events = event_counts.events + 1"
        )
        return (Change(statement=statement, arguments=(id_,), row=("event_counts", id_)),)


NEXT = (*ALL, EventCounts())


@pytest.fixture
async def old(postgres_pool: asyncpg.Pool) -> PostgresEventLog:
    """The release before, at work on a log with history."""
    log = PostgresEventLog(postgres_pool, ALL)
    for touched in History(5).steps(80):
        await log.append(*touched)
    return log


def a_run() -> Operation:
    spec = a_spec(IDS.new_id())
    return Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)


async def everything(pool: asyncpg.Pool) -> list[Any]:
    """The answers of the release before that are about PROJECT."""
    reads = SqlOperationReads(PostgresDatabase(pool))
    return [*await reads.list(PROJECT, Page()), await reads.counts(PROJECT)]


async def test_it_is_folded_from_the_first_event_on_at_the_next_start_and_then_kept(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, old: PostgresEventLog
) -> None:
    assert await migrate(postgres_dsn, projections=NEXT) is True
    assert await postgres_pool.fetch(COUNTS) == await postgres_pool.fetch(COUNTED)
    new = PostgresEventLog(postgres_pool, NEXT)
    run = a_run()
    await new.append(run)
    run.fail(CONTEXT, error="no")
    await new.append(run)
    assert await postgres_pool.fetch(COUNTS) == await postgres_pool.fetch(COUNTED)
    assert await migrate(postgres_dsn, projections=NEXT) is False
    assert (await compare(postgres_dsn, projections=NEXT)).differences == ()


async def test_the_release_before_answers_and_appends_until_the_swap_and_nothing_is_missed(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, old: PostgresEventLog
) -> None:
    """A reader's open transaction holds the swap up, so that the meantime is long enough."""
    reader = await asyncpg.connect(postgres_dsn)
    try:
        async with reader.transaction():
            await reader.fetch('SELECT FROM "read".projects')
            migrating = asyncio.create_task(migrate(postgres_dsn, projections=NEXT))
            await _until_a_swap_waits(reader)
            run = a_run()
            await old.append(run)
            assert await old.load(Operation, run.id) == run
            assert [row.operation_id for row in (await everything(postgres_pool))[:-1]] == [run.id]
            assert not migrating.done()
        assert await migrating is True
    finally:
        await reader.close()
    assert await postgres_pool.fetch(COUNTS) == await postgres_pool.fetch(COUNTED)
    assert [row.operation_id for row in (await everything(postgres_pool))[:-1]] == [run.id]


async def _until_a_swap_waits(connection: asyncpg.Connection) -> None:
    for _ in range(1000):
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' "
            "AND NOT granted)"
        ):
            return
        await asyncio.sleep(0.01)
    pytest.fail("no swap came to wait")


async def test_after_the_swap_the_release_before_appends_nothing_any_more(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, old: PostgresEventLog
) -> None:
    """Neither what would change its own read models nor what changes none of them."""
    run = a_run()
    run.assign(CONTEXT, worker="w", lease_until=EPOCH)
    await old.append(run)
    run.subprocess_spawned(CONTEXT, spid=2, pid=9, spec=a_subprocess())
    await old.append(run)  # prepared once, so that its plan is a cached one
    await migrate(postgres_dsn, projections=NEXT)
    with pytest.raises(UnavailableError, match="start this process again"):
        await PostgresDatabase(postgres_pool, guard=guard_of(ALL)).check()
    await PostgresDatabase(postgres_pool, guard=guard_of(NEXT)).check()
    count = await postgres_pool.fetchval("SELECT count(*) FROM stored_events")
    run.subprocess_spawned(CONTEXT, spid=3, pid=9, spec=a_subprocess())
    tag = Tag.assign(CONTEXT, name="one", image_id=IDS.new_id())
    for aggregate in (run, a_run(), tag):
        with pytest.raises(UnavailableError, match="start this process again"):
            await old.append(aggregate)
    assert await postgres_pool.fetchval("SELECT count(*) FROM stored_events") == count
    assert await postgres_pool.fetch(COUNTS) == await postgres_pool.fetch(COUNTED)
    assert await old.load(Operation, run.id) is not None


async def test_writers_of_the_release_before_are_cut_off_without_a_gap(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, old: PostgresEventLog
) -> None:
    writing = asyncio.Event()

    async def write_until_cut_off() -> None:
        while True:
            run = a_run()
            await old.append(run)
            run.assign(CONTEXT, worker="w", lease_until=EPOCH)
            run.subprocess_spawned(CONTEXT, spid=2, pid=9, spec=a_subprocess())
            await old.append(run)
            writing.set()

    writers = [asyncio.create_task(write_until_cut_off()) for _ in range(6)]
    async with asyncio.timeout(60):
        await writing.wait()
    assert await migrate(postgres_dsn, projections=NEXT) is True
    async with asyncio.timeout(60):
        results = await asyncio.gather(*writers, return_exceptions=True)
    assert {type(result) for result in results} == {UnavailableError}
    assert await postgres_pool.fetch(COUNTS) == await postgres_pool.fetch(COUNTED)
    assert (await compare(postgres_dsn, projections=NEXT)).differences == ()
