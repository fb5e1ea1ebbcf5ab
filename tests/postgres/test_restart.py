"""The database goes away in the middle and comes back: a server of the test's own, killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from contree.adapters.postgres.data_lock import DataLock
from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import PostgresDatabase, open_pool
from contree.adapters.postgres.rebuild import compare
from contree.adapters.postgres.work_queue import PostgresWorkQueue
from contree.app.journal import JournalEntry
from contree.app.reads import Page
from contree.domain.errors import UnavailableError
from contree.domain.operation import Kind, Operation
from contree.projections import ALL, SqlOperationReads
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.support.histories import a_spec, context_at

pytestmark = pytest.mark.postgres

IDS = FakeIds(space=6)
PROJECT = IDS.new_id()
CONTEXT = context_at(FakeClock(), PROJECT)
AN_ENTRY = JournalEntry(at=EPOCH, type="init", spid=0, data={})


def a_run() -> Operation:
    spec = a_spec(IDS.new_id())
    return Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)


async def test_calls_fail_as_unavailable_while_it_is_away_and_work_again_after(
    tmp_path: Path,
) -> None:
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    await migrate(server.dsn, projections=ALL)
    pool = await open_pool(server.dsn)
    log = PostgresEventLog(pool, ALL)
    listener = PostgresListener(server.dsn)
    queue = PostgresWorkQueue(pool, log, listener=listener)
    journal, database = PostgresJournal(pool), PostgresDatabase(pool)
    reads = SqlOperationReads(database)
    wakeups = queue.wakeups(worker="w", poll_s=0.2)
    try:
        before = a_run()
        await log.append(before)
        await anext(wakeups)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await _gone(server, tmp_path)
        lost = a_run()
        for call in (
            log.append(lost),
            log.load(Operation, before.id),
            log.sealed(before.id),
            queue.renew([before.id], worker="w", lease_s=60),
            queue.look(worker="w"),
            queue.abandoned(),
            claim(queue),
            journal.read(before.id),
            journal.append(before.id, [AN_ENTRY]),
            journal.restart(before.id),
            reads.list(PROJECT, Page()),
            database.check(),
            open_pool(server.dsn),
            compare(server.dsn, projections=ALL),
        ):
            with pytest.raises(UnavailableError):
                await call
        await asyncio.wait_for(anext(wakeups), 60)  # the waiter only goes on waiting

        await server.start()
        assert await log.load(Operation, before.id) == before
        assert await log.load(Operation, lost.id) is None
        assert [o.id for o in await claim(queue)] == [before.id]
        await database.check()
        await _woken_by_an_append(queue, log)
    finally:
        await wakeups.aclose()
        await listener.aclose()
        await pool.close()
        await server.stop()


async def _gone(server: EmbeddedPostgres, data_dir: Path) -> None:
    """Wait for the last of its processes: sessions answer a little longer than the first lives."""
    lock = DataLock(data_dir / "postgres.lock")
    async with asyncio.timeout(60):
        while server.pid is not None or not lock.take():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    lock.release()


async def claim(queue: PostgresWorkQueue) -> Sequence[Operation]:
    return await queue.claim(
        worker="w",
        kind=Kind.INSTANCE,
        limit=5,
        running_per_project_max=5,
        lease_until=EPOCH + timedelta(seconds=60),
        context=CONTEXT,
    )


async def _woken_by_an_append(queue: PostgresWorkQueue, log: PostgresEventLog) -> None:
    wakeups = queue.wakeups(worker="w", poll_s=60)
    await anext(wakeups)
    waiting = asyncio.ensure_future(anext(wakeups))
    await log.append(a_run())
    await asyncio.wait_for(waiting, 60)
    await wakeups.aclose()


async def test_wakeups_survive_the_loss_of_their_connection(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    await server.start()
    await migrate(server.dsn, projections=ALL)
    pool = await open_pool(server.dsn)
    log = PostgresEventLog(pool, ALL)
    listener = PostgresListener(server.dsn)
    queue = PostgresWorkQueue(pool, log, listener=listener)
    wakeups = queue.wakeups(worker="w", poll_s=0.3)
    try:
        await anext(wakeups)
        await server.stop()
        for _ in range(3):
            await asyncio.wait_for(anext(wakeups), 60)
        await server.start()
        for _ in range(5):
            await asyncio.wait_for(anext(wakeups), 60)
    finally:
        await wakeups.aclose()
        await listener.aclose()
        await pool.close()
        await server.stop()
