"""What claims cost others: nothing when their worker stops in one, nothing while others write."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.adapters.postgres.work_queue import PostgresWorkQueue
from contree.domain.operation import Kind, Operation
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.support.histories import History, a_spec, context_at
from tests.support.postgres import execute
from tests.vm.fixtures import ROOT

pytestmark = pytest.mark.postgres

IDS = FakeIds(space=31)
SPACES = itertools.count(31_000)
WAIT_S = 60
OPEN = (
    "SELECT a.pid, a.state, l.locktype FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid) "
    "WHERE a.datname = current_database() AND a.application_name LIKE 'contreed%' "
    "AND a.pid <> pg_backend_pid() AND (a.xact_start IS NOT NULL OR l.pid IS NOT NULL)"
)
KEPT_S = 3600.0
"""A claim that is kept for longer than any test lasts."""


async def requested(log: PostgresEventLog, project_id: UUID, count: int = 1) -> list[Operation]:
    made = [
        Operation.request_instance(
            context_at(FakeClock(), project_id),
            operation_id=IDS.new_id(),
            spec=a_spec(IDS.new_id()),
        )
        for _ in range(count)
    ]
    await log.append(*made)
    return made


async def claim(
    queue: PostgresWorkQueue, worker: str = "w", *, limit: int = 10, per_project: int = 10
) -> Sequence[Operation]:
    return await queue.claim(
        worker=worker,
        kind=Kind.INSTANCE,
        limit=limit,
        running_per_project_max=per_project,
        lease_until=EPOCH + timedelta(seconds=60),
        context=context_at(FakeClock(), UUID(int=0)),
    )


@pytest.fixture
def log(postgres_pool: asyncpg.Pool) -> PostgresEventLog:
    return PostgresEventLog(postgres_pool, ALL)


@pytest.fixture
def queue(
    postgres_pool: asyncpg.Pool, log: PostgresEventLog, listener: PostgresListener
) -> PostgresWorkQueue:
    return PostgresWorkQueue(postgres_pool, log, listener=listener)


@asynccontextmanager
async def stopped_in_a_claim(
    dsn: str, *, take_s: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker's process that stands still between the steps of a claim."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.postgres.stopped_claim", dsn, str(take_s)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        pid, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
        assert (pid, os.WIFSTOPPED(status)) == (process.pid, True)
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_worker_that_is_stopped_in_a_claim_delays_no_writer_and_no_other_claim(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    log: PostgresEventLog,
    queue: PostgresWorkQueue,
) -> None:
    (taken,) = await requested(log, IDS.new_id())
    async with stopped_in_a_claim(postgres_dsn, take_s=KEPT_S):
        assert await postgres_pool.fetch(OPEN) == [], "it has no transaction open, nor any lock"
        async with asyncio.timeout(5):  # half of what a writer waits for a lock
            (other,) = await requested(log, IDS.new_id())
            assert [o.id for o in await claim(queue)] == [other.id]
            look = await queue.look(worker="w")
            assert look.pending == set(), "what is taken is kept for its worker"
            taken.cancel(context_at(FakeClock(), taken.project_id))
            await log.append(taken)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_what_a_stopped_worker_has_taken_is_given_to_another_and_not_to_both(
    postgres_dsn: str, log: PostgresEventLog, queue: PostgresWorkQueue
) -> None:
    (operation,) = await requested(log, IDS.new_id())
    async with stopped_in_a_claim(postgres_dsn, take_s=0.2) as stopped, asyncio.timeout(WAIT_S):
        while not (claimed := await claim(queue, "other")):  # noqa: ASYNC110 - time tells nobody
            await asyncio.sleep(0.01)
        assert [(o.id, o.worker, o.attempts) for o in claimed] == [(operation.id, "other", 1)]
        stopped.send_signal(signal.SIGCONT)
        assert stopped.stdout is not None
        assert await stopped.stdout.read() == b"0\n"
    assert await log.load(Operation, operation.id) == claimed[0]
    assert await queue.abandoned(worker="stopped") == []


async def test_workers_that_race_share_no_operation_and_keep_each_project_to_its_bound(
    postgres_dsn: str, log: PostgresEventLog, listener: PostgresListener
) -> None:
    """While they do, some of what they claimed ends, is handed back, or is cancelled."""
    projects = [IDS.new_id() for _ in range(3)]
    for project_id in projects:
        await requested(log, project_id, 30)
    given: Counter[tuple[UUID, int]] = Counter()
    running: Counter[UUID] = Counter()

    async def work(number: int) -> None:
        choices = random.Random(number)
        pool = await open_pool(postgres_dsn, connections_max=2)
        own = PostgresEventLog(pool, ALL)
        queue = PostgresWorkQueue(pool, own, listener=listener)
        for _ in range(12):
            claimed = await claim(queue, f"w{number}", limit=3, per_project=4)
            given.update((o.id, o.attempts) for o in claimed)
            running.update(o.project_id for o in claimed)
            assert max(running.values(), default=0) <= 4
            await asyncio.sleep(choices.random() / 100)
            for operation in claimed:
                context = context_at(FakeClock(), operation.project_id)
                match choices.randrange(3):
                    case 0:
                        operation.lose(context, reason="stopped", counted=False)
                    case 1:
                        operation.cancel(context)
                        operation.cancelled(context)
                    case 2:
                        operation.succeed(context, result_image_id=None)
                running[operation.project_id] -= 1
                await own.append(operation)
        await pool.close()

    await asyncio.gather(*(work(number) for number in range(8)))
    assert set(given.values()) == {1}
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(choices=st.randoms(use_true_random=False), steps=st.integers(20, 80))
async def test_the_queue_holds_what_has_not_ended_after_any_history(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, choices: random.Random, steps: int
) -> None:
    history = History(choices, space=next(SPACES))
    log = PostgresEventLog(postgres_pool, ALL)
    for touched in history.steps(steps):
        await log.append(*touched)
    rows = await postgres_pool.fetch(
        "SELECT operation_id, project_id, kind, worker, unwanted, until IS NOT NULL AS is_leased "
        "FROM queue WHERE project_id = ANY($1)",
        history.project_ids,
    )
    assert {row["operation_id"]: tuple(row)[1:] for row in rows} == {
        o.id: (
            *(o.project_id, o.kind.value, o.worker),
            *(o.cancellation_requested, o.status.is_running),
        )
        for o in history.aggregates.values()
        if isinstance(o, Operation) and not o.status.is_terminal
    }


@pytest.mark.parametrize(
    "tampering",
    [
        "DELETE FROM queue",
        "UPDATE queue SET worker = 'nobody', until = now()",
        "UPDATE queue SET unwanted = NOT unwanted",
        "INSERT INTO queue VALUES (gen_random_uuid(), gen_random_uuid(), 'instance', now())",
    ],
)
async def test_a_queue_that_is_not_the_log_s_is_named_and_set_right_by_a_rebuild(
    postgres_dsn: str, log: PostgresEventLog, queue: PostgresWorkQueue, tampering: str
) -> None:
    """As after a restore of only the log."""
    ids = [operation.id for operation in await requested(log, IDS.new_id(), 3)]
    (running,) = await claim(queue, limit=1)
    await queue.renew([running.id], worker="w", lease_s=KEPT_S)
    await execute(postgres_dsn, tampering)
    found = (await compare(postgres_dsn, projections=ALL)).differences
    assert {difference.table for difference in found} == {"queue"}
    await rebuild(postgres_dsn, projections=ALL)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()
    assert await queue.abandoned(worker="w") == [running.id]
    assert [o.id for o in await claim(queue)] == [id_ for id_ in ids if id_ != running.id]


async def test_a_rebuild_leaves_leases_and_what_is_taken_as_they_are(
    postgres_dsn: str, log: PostgresEventLog, queue: PostgresWorkQueue
) -> None:
    await requested(log, IDS.new_id(), 2)
    await claim(queue, limit=1)
    rows = "SELECT q::text FROM queue q ORDER BY operation_id"
    async with stopped_in_a_claim(postgres_dsn, take_s=KEPT_S):
        before = await queue_rows(postgres_dsn, rows)
        await rebuild(postgres_dsn, projections=ALL)
        assert await queue_rows(postgres_dsn, rows) == before


async def queue_rows(dsn: str, statement: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["q"] for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_a_claim_costs_by_the_projects_that_wait_not_by_the_length_of_the_queue(
    postgres_pool: asyncpg.Pool, queue: PostgresWorkQueue
) -> None:
    """Its plan was made, and is kept, when the queue was empty."""
    for _ in range(10):
        await claim(queue)
    read: list[int] = []
    for per_project in (10, 1000):
        await postgres_pool.execute(
            "INSERT INTO queue SELECT gen_random_uuid(), p, 'instance', now() "
            "FROM unnest($1::uuid[]) p, generate_series(1, $2::int)",
            [IDS.new_id() for _ in range(20)],
            per_project,
        )
        read.append(await rows_of_queue_read(postgres_pool))
    assert read[1] <= read[0] * 4


async def rows_of_queue_read(pool: asyncpg.Pool) -> int:
    """How many rows of the queue's indexes and table one claim reads, by the server's count."""
    async with pool.acquire() as connection, connection.transaction():
        count = (
            "SELECT sum(coalesce(pg_stat_get_xact_tuples_returned(c.oid), 0)) FROM pg_class c "
            "WHERE c.relname IN ('queue', 'queue_waiting_idx', 'queue_held_idx', 'queue_pkey')"
        )
        before = await connection.fetchval(count)
        await connection.fetch("SELECT public.queue_take('instance', 'w', 5, 10, 10)")
        return int(await connection.fetchval(count)) - int(before)
