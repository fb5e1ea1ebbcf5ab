"""News and commands by NOTIFY, over real connections that are cut from outside as well."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.postgres import listener as listener_module
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.guest_control import ANSWERS_CHANNEL, PostgresGuestControl
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.operation_news import PostgresOperationNews
from contree.adapters.postgres.pool import connect
from contree.app.guest.guest_control import Action, ControlAnswer, GuestCommand, Outcome
from contree.app.journal import JournalEntry
from contree.domain.operation import Operation
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.support.histories import a_spec, context_at
from tests.support.postgres import execute

pytestmark = pytest.mark.postgres

IDS = FakeIds(space=12)
WAIT_S = 30
ENTRY = JournalEntry(at=EPOCH, type="stdout", spid=1, data={"value": "x"})
LISTENING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
)
CUT = f"SELECT pg_terminate_backend(pid, 10000) FROM ({LISTENING}) AS sessions"


@pytest_asyncio.fixture(loop_scope="session")
async def listener(postgres_dsn: str) -> AsyncIterator[PostgresListener]:
    made = PostgresListener(postgres_dsn)
    yield made
    await made.aclose()


class Woken:
    """A subscriber that counts."""

    def __init__(self, news: PostgresOperationNews, operation_id: UUID) -> None:
        self.count = 0
        self._event = asyncio.Event()
        self.unsubscribe = news.subscribe(operation_id, self._wake)

    def _wake(self) -> None:
        self.count += 1
        self._event.set()

    async def next(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._event.wait()
        self._event.clear()


async def test_a_journal_that_grows_wakes_its_subscribers_and_no_others(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    news, journal = PostgresOperationNews(listener), PostgresJournal(postgres_pool)
    mine, other = IDS.new_id(), IDS.new_id()
    first, second, stranger = Woken(news, mine), Woken(news, mine), Woken(news, other)
    for woken in (first, second, stranger):
        await woken.next()  # listening has begun: look
    await journal.append(mine, [ENTRY])
    await first.next()
    await second.next()
    second.unsubscribe()
    await journal.append(mine, [ENTRY])
    await first.next()
    assert (first.count, second.count, stranger.count) == (3, 2, 1)


async def test_every_end_of_an_operation_is_news(
    postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    news, log = PostgresOperationNews(listener), PostgresEventLog(postgres_pool, ALL)
    clock = FakeClock()
    context = context_at(clock, IDS.new_id())
    for end in ("succeed", "fail", "cancel"):
        operation = Operation.request_instance(
            context, operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
        )
        woken = Woken(news, operation.id)
        if end == "succeed":
            await woken.next()  # listening has begun
            operation.assign(context, worker="w", lease_until=clock.now() + timedelta(seconds=9))
            operation.succeed(context, result_image_id=None)
        elif end == "fail":
            operation.fail(context, error="no")
        else:
            operation.cancel(context)
        await log.append(operation)
        await woken.next()


async def test_a_listener_that_was_cut_off_comes_back_and_lets_everybody_look(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    news, journal = PostgresOperationNews(listener), PostgresJournal(postgres_pool)
    operation_id = IDS.new_id()
    woken = Woken(news, operation_id)
    await woken.next()
    await execute(postgres_dsn, CUT)
    await woken.next()  # it is back
    await journal.append(operation_id, [ENTRY])
    await woken.next()


async def test_a_connection_that_only_seems_to_be_there_is_given_up(
    postgres_dsn: str, listener: PostgresListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contree.adapters.postgres.listener.PROBE_S", 0.2)
    lost = asyncio.Event()
    listener.subscribe("news", lambda _: None, lost.set)
    await listener.listening("news")
    await asyncio.sleep(0.5)  # it is asked, and answers
    listener.subscribe("more_news", lambda _: None, lambda: None)
    await listener.listening("more_news")
    connection = await asyncpg.connect(postgres_dsn)
    [silent] = await connection.fetch(LISTENING)
    await connection.close()
    os.kill(silent["pid"], signal.SIGSTOP)  # its socket stays open, as behind a dead network
    try:
        lost.clear()
        async with asyncio.timeout(WAIT_S):
            await lost.wait()  # it hears again, and has said that it did not
    finally:
        os.kill(silent["pid"], signal.SIGCONT)


def a_command(operation_id: UUID) -> GuestCommand:
    return GuestCommand(
        operation_id=operation_id, action=Action.STDIN, spid=1, actor="a", request_id="r"
    )


async def test_a_sender_whose_answer_was_lost_is_told_that_nobody_knows(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    listener: PostgresListener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_connect = asyncio.Event()
    may_connect.set()

    async def connect_when_allowed(dsn: str) -> asyncpg.Connection:
        await may_connect.wait()
        return await connect(dsn)

    monkeypatch.setattr(listener_module, "connect", connect_when_allowed)
    api = PostgresGuestControl(postgres_pool, listener)
    elsewhere = PostgresListener(postgres_dsn)
    worker = PostgresGuestControl(postgres_pool, elsewhere)
    operation_id = IDS.new_id()
    async with worker.open(operation_id) as inbox:
        sending = asyncio.create_task(api.send(a_command(operation_id), within_s=WAIT_S))
        async for received in inbox.commands():
            await inbox.start(received.number)
            # The answer goes out with nobody listening.
            may_connect.clear()
            await execute(postgres_dsn, CUT)
            while listener.hears(ANSWERS_CHANNEL):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            await inbox.answer(received.number, ControlAnswer(outcome=Outcome.DONE))
            may_connect.set()
            break
        assert (await sending).outcome is Outcome.UNKNOWN
    await elsewhere.aclose()


async def test_the_end_of_an_operation_empties_its_inbox_also_when_its_worker_is_gone(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    control = PostgresGuestControl(postgres_pool, listener)
    log = PostgresEventLog(postgres_pool, ALL)
    clock = FakeClock()
    context = context_at(clock, IDS.new_id())
    for end in ("lose", "fail"):
        operation = Operation.request_instance(
            context, operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
        )
        operation.assign(context, worker="w", lease_until=clock.now() + timedelta(seconds=9))
        await log.append(operation)
        opened = control.open(operation.id)
        await opened.__aenter__()
        sending = asyncio.create_task(control.send(a_command(operation.id), within_s=WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while not await postgres_pool.fetchval("SELECT count(*) FROM public.guest_commands"):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        if end == "lose":
            operation.lose(context, reason="the worker was killed")
        else:
            operation.fail(context, error="no")
        await log.append(operation)
        await execute(postgres_dsn, CUT)  # it looks again, and need not wait until its time is up
        assert (await sending).outcome is Outcome.UNKNOWN
        later = await control.send(a_command(operation.id), within_s=0.3)
        assert later.outcome is Outcome.NOT_READY
        for table in ("guest_inboxes", "guest_commands"):
            count = await postgres_pool.fetchval(f"SELECT count(*) FROM public.{table}")
            assert count == 0, table
        await opened.__aexit__(None, None, None)


async def test_an_inbox_survives_a_crash_of_the_database_that_empties_it(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    control = PostgresGuestControl(postgres_pool, listener)
    operation_id = IDS.new_id()
    async with control.open(operation_id) as inbox:

        async def serve() -> None:
            async for received in inbox.commands():
                await inbox.start(received.number)
                await inbox.answer(received.number, ControlAnswer(outcome=Outcome.DONE))

        serving = asyncio.create_task(serve())
        await control.send(a_command(operation_id), within_s=WAIT_S)
        # What a crash leaves behind: unlogged tables are empty, nobody listens.
        await execute(postgres_dsn, "TRUNCATE public.guest_inboxes, public.guest_commands", CUT)
        outcome = Outcome.NOT_READY
        async with asyncio.timeout(3 * WAIT_S):
            while outcome is not Outcome.DONE:
                answer = await control.send(a_command(operation_id), within_s=WAIT_S)
                outcome = answer.outcome
                await asyncio.sleep(0.01)
        assert not serving.done()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
