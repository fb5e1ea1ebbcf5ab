"""The RecordedLog contract, on the fake and on PostgreSQL; each test gets an empty log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.app.event_log import EventLog
from contree.app.recorded_log import BATCH_BYTES_MAX, RecordedEvent, RecordedLog, is_full
from contree.domain.operation import Operation
from contree.projections import ALL
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import History, a_spec, context_at

WAIT_S = 10
LARGE_BYTES = 60_000


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


async def test_a_batch_ends_by_bytes_and_a_follower_misses_nothing(both: Both) -> None:
    ids = FakeIds(space=0xB17E5)
    count = 2 * BATCH_BYTES_MAX // LARGE_BYTES + 3
    for _ in range(count):
        spec = a_spec(ids.new_id(), args=("x" * LARGE_BYTES,))
        context = context_at(FakeClock(), ids.new_id())
        await both.log.append(
            Operation.request_instance(context, operation_id=ids.new_id(), spec=spec)
        )
    first = await both.recorded.read(after=0, limit=count)
    sizes = [len(event.state) for event in first]
    assert sum(sizes[:-1]) < BATCH_BYTES_MAX <= sum(sizes)
    assert is_full([event.state for event in first], rows_max=count)
    seen: list[RecordedEvent] = []
    async with asyncio.timeout(WAIT_S), aclosing(both.recorded.follow(after=0)) as batches:
        async for batch in batches:
            assert sum(len(event.state) for event in batch[:-1]) < BATCH_BYTES_MAX
            seen += batch
            if len(seen) >= count:
                break
    assert is_in_order(seen)
    assert len(seen) == count
