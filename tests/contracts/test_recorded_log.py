"""The RecordedLog contract, on the fake and on PostgreSQL; each test gets an empty log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.app.event_log import EventLog
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.projections import ALL
from tests.fakes.event_log import FakeEventLog
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import History

WAIT_S = 10


@dataclass(frozen=True)
class Both:
    log: EventLog
    recorded: RecordedLog


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def both(request: pytest.FixtureRequest) -> Both:
    if request.param == "fake":
        log = FakeEventLog()
        return Both(log, FakeRecordedLog(log))
    pool = request.getfixturevalue("postgres_pool")
    recorded = PostgresRecordedLog(pool, request.getfixturevalue("listener"))
    return Both(PostgresEventLog(pool, ALL), recorded)


async def append(both: Both, steps: int, *, seed: int) -> None:
    for touched in History(seed).steps(steps):
        await both.log.append(*touched)


def is_in_order(events: list[RecordedEvent]) -> bool:
    positions = [event.position for event in events]
    return positions == sorted(set(positions))


async def test_an_empty_log_has_no_head_and_nothing_to_read(both: Both) -> None:
    assert await both.recorded.head() == 0
    assert await both.recorded.read(after=0) == []


async def test_batches_make_up_the_whole_log_in_order(both: Both) -> None:
    await append(both, 60, seed=3)
    whole = list(await both.recorded.read(after=0, limit=100_000))
    assert len(whole) > 60
    assert is_in_order(whole)
    assert whole[-1].position == await both.recorded.head()
    assert len({event.hash for event in whole}) == len(whole)
    pieces: list[RecordedEvent] = []
    while batch := await both.recorded.read(after=pieces[-1].position if pieces else 0, limit=7):
        assert len(batch) <= 7
        pieces += batch
    assert pieces == whole


async def test_a_follower_gets_what_is_there_and_then_what_comes(both: Both) -> None:
    await append(both, 20, seed=4)
    seen: list[RecordedEvent] = []
    caught_up = asyncio.Event()
    head = await both.recorded.head()

    async def follow() -> None:
        async with aclosing(both.recorded.follow(after=0, limit=5)) as batches:
            async for batch in batches:
                assert batch
                seen.extend(batch)
                if seen[-1].position >= head:
                    caught_up.set()

    following = asyncio.create_task(follow())
    async with asyncio.timeout(WAIT_S):
        await caught_up.wait()
    await append(both, 20, seed=5)
    last = await both.recorded.head()
    assert last > head
    async with asyncio.timeout(WAIT_S):
        while seen[-1].position < last:
            caught_up.clear()
            await caught_up.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert seen == list(await both.recorded.read(after=0, limit=100_000))
