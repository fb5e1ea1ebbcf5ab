"""Appends that wait together share a transaction, and each stays all or nothing on its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from contree.adapters.postgres.chain import verify_chain
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.group_commit import SHARE_MAX
from contree.adapters.postgres.rebuild import compare
from contree.adapters.postgres.statement import LOCK_LOG
from contree.app.retries import retry_conflicts
from contree.domain.aggregate import Aggregate
from contree.domain.errors import ConflictError, UnavailableError
from contree.domain.operation import Operation
from contree.domain.tag import Tag, tag_id_of
from contree.projections import ALL
from tests.fakes.clock import FakeClock, FakeIds
from tests.support.histories import History, a_spec, context_at

pytestmark = pytest.mark.postgres

IDS = FakeIds(space=9)
PROJECT = IDS.new_id()
CONTEXT = context_at(FakeClock(), PROJECT)
WAITING_FOR_THE_LOG = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def log(postgres_pool: asyncpg.Pool) -> PostgresEventLog:
    return PostgresEventLog(postgres_pool, ALL)


def a_run() -> Operation:
    spec = a_spec(IDS.new_id())
    return Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)


def a_tag(name: str) -> Tag:
    return Tag.assign(CONTEXT, name=name, image_id=PROJECT)


async def transactions(pool: asyncpg.Pool) -> list[int]:
    """How many events each transaction holds, in the order of the log."""
    rows = await pool.fetch(
        "SELECT count(*) AS events FROM stored_events GROUP BY xmin ORDER BY min(notification_id)"
    )
    return [row["events"] for row in rows]


async def appended(log: PostgresEventLog, *appends: Sequence[Aggregate]) -> list[object]:
    """Append all at once; return None or the error of each."""
    return await asyncio.gather(*(log.append(*a) for a in appends), return_exceptions=True)


@asynccontextmanager
async def log_locked(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the log's lock, as another process's append does; the connection may look around."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(LOCK_LOG)
            yield connection
    finally:
        await connection.close()


async def waiting_pid(connection: asyncpg.Connection) -> int:
    """Wait until some append waits for the log's lock; return its server process."""
    for _ in range(1000):
        if (pid := await connection.fetchval(WAITING_FOR_THE_LOG)) is not None:
            return int(pid)
        await asyncio.sleep(0.01)
    pytest.fail("no append came to wait")


async def test_appends_that_wait_together_are_one_transaction_up_to_a_bound(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    async with log_locked(postgres_dsn) as other:
        first = asyncio.create_task(log.append(a_run()))
        await waiting_pid(other)
        rest = [asyncio.create_task(log.append(a_run())) for _ in range(SHARE_MAX + 10)]
        await asyncio.sleep(0)
    await asyncio.gather(first, *rest)
    assert await transactions(postgres_pool) == [1, SHARE_MAX, 10]
    assert (await verify_chain(postgres_pool)).broken_at is None
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_an_append_that_conflicts_fails_alone_and_whole(log: PostgresEventLog) -> None:
    await log.append(a_tag("taken"))
    runs = [a_run() for _ in range(10)]
    beside = a_run()
    results = await appended(
        log, *([run] for run in runs[:5]), [beside, a_tag("taken")], *([run] for run in runs[5:])
    )
    assert [type(result) for result in results] == [type(None)] * 5 + [ConflictError] + [
        type(None)
    ] * 5
    assert await log.load(Operation, beside.id) is None
    assert [await log.load(Operation, run.id) for run in runs] == runs


async def test_appends_to_one_aggregate_at_once_are_one_winner_and_conflicts(
    log: PostgresEventLog,
) -> None:
    results = await appended(log, *([a_tag("one")] for _ in range(8)))
    assert sorted(type(result).__name__ for result in results) == [
        *["ConflictError"] * 7,
        "NoneType",
    ]


async def test_racing_writers_that_retry_lose_no_decision(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    """Half of them move one tag, always in each other's way; the others append what is theirs."""
    await log.append(a_tag("moved"))
    tag_id = tag_id_of(PROJECT, "moved")

    async def move() -> None:
        tag = await log.load(Tag, tag_id)
        assert tag is not None
        tag.move(CONTEXT, image_id=IDS.new_id())
        await log.append(tag)

    async def keep_moving() -> None:
        moved = 0
        while moved < 10:
            with contextlib.suppress(ConflictError):  # as often as it takes
                await retry_conflicts(move)
                moved += 1

    async def play(history: History) -> None:
        for touched in history.steps(40):
            await log.append(*touched)

    await asyncio.gather(
        *(keep_moving() for _ in range(4)), *(play(History(70 + n)) for n in range(4))
    )
    tag = await log.load(Tag, tag_id)
    assert tag is not None
    assert tag.version == 41
    assert max(await transactions(postgres_pool)) > 1
    assert (await verify_chain(postgres_pool)).broken_at is None
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_a_caller_that_is_cancelled_disturbs_nobody(
    postgres_dsn: str, log: PostgresEventLog
) -> None:
    runs = [a_run() for _ in range(4)]
    async with log_locked(postgres_dsn) as other:
        tasks = [asyncio.create_task(log.append(run)) for run in runs[:2]]
        await waiting_pid(other)
        tasks += [asyncio.create_task(log.append(run)) for run in runs[2:]]
        await asyncio.sleep(0)
        tasks[0].cancel()  # under way
        tasks[2].cancel()  # waiting
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        *("CancelledError", "NoneType", "CancelledError", "NoneType")
    ]
    found = [await log.load(Operation, run.id) is not None for run in runs]
    assert found[1:] == [True, False, True]


async def test_a_lost_connection_fails_what_was_under_way_and_the_next_appends_go_on(
    postgres_dsn: str, log: PostgresEventLog
) -> None:
    lost, waiting = a_run(), a_run()
    async with log_locked(postgres_dsn) as other:
        first = asyncio.create_task(log.append(lost))
        pid = await waiting_pid(other)
        second = asyncio.create_task(log.append(waiting))
        await asyncio.sleep(0)
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(UnavailableError):
            await first
    await second
    assert await log.load(Operation, lost.id) is None
    assert await log.load(Operation, waiting.id) == waiting


async def test_without_a_connection_every_append_fails_and_later_ones_work(
    postgres_dsn: str,
) -> None:
    pool = await asyncpg.create_pool(postgres_dsn, min_size=0, max_size=1)
    log = PostgresEventLog(pool, ())
    await pool.close()
    results = await appended(log, [a_run()], [a_run()])
    assert [type(result) for result in results] == [UnavailableError] * 2
