"""The WorkQueue contract, on the fake and on PostgreSQL, each over a log of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from contree.adapters.postgres import pool
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.pool import CONNECTIONS_MAX, open_pool
from contree.adapters.postgres.work_queue import PostgresWorkQueue
from contree.app.event_log import EventLog
from contree.app.work_queue import Wake, WorkQueue
from contree.domain.errors import StorageFullError, UnavailableError
from contree.domain.operation import Kind, Operation, Status
from contree.projections import ALL
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.work_queue import FakeWorkQueue
from tests.support.histories import a_spec, context_at
from tests.support.postgres import execute

IDS = FakeIds(space=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A log, the queue over it as two workers' processes have it, and a clock."""

    log: EventLog
    queue: WorkQueue
    elsewhere: WorkQueue
    clock: FakeClock

    async def requested(
        self, project_id: UUID, *, count: int = 1, kind: Kind = Kind.INSTANCE
    ) -> list[UUID]:
        """Append `count` pending operations, a second apart."""
        made: list[UUID] = []
        for _ in range(count):
            self.clock.advance(1)
            context = context_at(self.clock, project_id)
            operation_id = IDS.new_id()
            if kind is Kind.INSTANCE:
                spec = a_spec(IDS.new_id())
                operation = Operation.request_instance(
                    context, operation_id=operation_id, spec=spec
                )
            else:
                operation = Operation.request_import(
                    context,
                    operation_id=operation_id,
                    registry_url="docker://r/i:t",
                    username=None,
                    tag=None,
                    timeout_s=9,
                )
            await self.log.append(operation)
            made.append(operation_id)
        return made

    async def claim(
        self,
        worker: str = "w",
        *,
        limit: int = 10,
        per_project: int = 100,
        kind: Kind = Kind.INSTANCE,
        lease_until: datetime | None = None,
        elsewhere: bool = False,
    ) -> Sequence[Operation]:
        return await (self.elsewhere if elsewhere else self.queue).claim(
            worker=worker,
            kind=kind,
            limit=limit,
            running_per_project_max=per_project,
            lease_until=lease_until or self.clock.now() + timedelta(seconds=60),
            context=context_at(self.clock, UUID(int=0), actor=f"worker:{worker}"),
        )

    async def load(self, operation_id: UUID) -> Operation:
        operation = await self.log.load(Operation, operation_id)
        assert operation is not None
        return operation


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def house(request: pytest.FixtureRequest) -> House:
    if request.param == "fake":
        fake = FakeEventLog()
        clock = FakeClock()
        fakes = [FakeWorkQueue(fake, clock) for _ in range(2)]
        return House(log=fake, queue=fakes[0], elsewhere=fakes[1], clock=clock)
    return real_house(request.getfixturevalue("postgres_pool"), request.getfixturevalue("listener"))


def real_house(
    pool: asyncpg.Pool, listener: PostgresListener, *, leases: asyncpg.Pool | None = None
) -> House:
    log = PostgresEventLog(pool, ALL)
    queue = PostgresWorkQueue(pool, log, listener=listener, leases=leases)
    elsewhere = PostgresWorkQueue(pool, PostgresEventLog(pool, ALL), listener=listener)
    return House(log=log, queue=queue, elsewhere=elsewhere, clock=FakeClock())


def ids_of(operations: Sequence[Operation]) -> list[UUID]:
    return [operation.id for operation in operations]


async def test_an_empty_queue_gives_nothing(house: House) -> None:
    assert list(await house.claim()) == []


@pytest.mark.postgres
async def test_a_claim_that_the_log_does_not_take_has_taken_nothing(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    house = real_house(postgres_pool, listener)
    ids = await house.requested(IDS.new_id(), count=2)
    await execute(
        postgres_dsn,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE disk_full; END$$",
        "CREATE TRIGGER refuse BEFORE INSERT ON stored_events FOR EACH ROW "
        "WHEN (NEW.topic = 'contree.operation.assigned') EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(StorageFullError):
        await house.claim()
    assert [(await house.load(id_)).status for id_ in ids] == [Status.PENDING] * 2
    statuses = "SELECT DISTINCT status FROM operations"
    assert await postgres_pool.fetchval(statuses) == Status.PENDING.value
    assert not await postgres_pool.fetchval(
        "SELECT EXISTS (SELECT FROM public.queue WHERE worker IS NOT NULL OR taken_by IS NOT NULL)"
    )
    await execute(postgres_dsn, "DROP TRIGGER refuse ON stored_events")
    assert ids_of(await house.claim()) == ids


async def test_the_oldest_come_first_up_to_the_limit(house: House) -> None:
    ids = await house.requested(IDS.new_id(), count=3)
    assert ids_of(await house.claim(limit=2)) == ids[:2]
    assert ids_of(await house.claim(limit=2)) == ids[2:]
    assert list(await house.claim(limit=0)) == []


async def test_who_comes_later_with_one_is_not_behind_a_long_queue(house: House) -> None:
    many = await house.requested(IDS.new_id(), count=500)
    (one,) = await house.requested(IDS.new_id())
    assert set(ids_of(await house.claim(limit=2))) == {many[0], one}


async def test_the_project_with_the_fewest_running_comes_first(house: House) -> None:
    busy, other = IDS.new_id(), IDS.new_id()
    ids = await house.requested(busy, count=6)
    await house.claim(limit=3)
    later = await house.requested(other, count=4)
    assert ids_of(await house.claim(limit=3)) == later[:3], "now both have three"
    assert set(ids_of(await house.claim(limit=2))) == {ids[3], later[3]}
    assert ids_of(await house.claim(limit=2)) == ids[4:]


@pytest.mark.parametrize("slots", [1, 2])
async def test_with_few_slots_projects_still_take_turns(house: House, slots: int) -> None:
    projects = [IDS.new_id() for _ in range(4)]
    for project_id in projects:
        await house.requested(project_id, count=6)
    running: list[Operation] = []
    order: list[UUID] = []
    for _ in range(12):
        claimed = await house.claim(limit=slots - len(running))
        order += [operation.project_id for operation in claimed]
        running += claimed
        ended = running.pop(0)
        ended.succeed(context_at(house.clock, ended.project_id), result_image_id=None)
        await house.log.append(ended)
    for start in range(0, 12, 4):
        assert set(order[start : start + 4]) == set(projects)


async def test_turns_go_round_among_projects_whichever_worker_serves_them(house: House) -> None:
    """Each worker alone would serve them in this order: both would begin with the first."""
    projects = [IDS.new_id() for _ in range(4)]
    for project_id in projects:
        await house.requested(project_id, count=2)
    order: list[UUID] = []
    for number in range(8):
        (claimed,) = await house.claim(limit=1, elsewhere=number % 2 == 1)
        order.append(claimed.project_id)
        claimed.succeed(context_at(house.clock, claimed.project_id), result_image_id=None)
        await house.log.append(claimed)
    assert order == projects * 2


async def test_an_operation_that_was_cancelled_meanwhile_is_not_given(house: House) -> None:
    ids = await house.requested(IDS.new_id(), count=2)
    first = await house.load(ids[0])
    first.cancel(context_at(house.clock, first.project_id))
    await house.log.append(first)
    assert ids_of(await house.claim()) == ids[1:]


async def test_a_claimed_operation_is_assigned_in_the_log_under_its_own_project(
    house: House,
) -> None:
    project_id = IDS.new_id()
    (id_,) = await house.requested(project_id)
    (claimed,) = await house.claim("worker-1")
    assert await house.load(id_) == claimed
    assert (claimed.status, claimed.worker, claimed.attempts) == (Status.ASSIGNED, "worker-1", 1)
    assert claimed.project_id == project_id


async def test_only_operations_of_the_kind_are_given(house: House) -> None:
    project_id = IDS.new_id()
    (run,) = await house.requested(project_id)
    (pull,) = await house.requested(project_id, kind=Kind.IMPORT)
    assert ids_of(await house.claim(kind=Kind.IMPORT)) == [pull]
    assert ids_of(await house.claim(kind=Kind.INSTANCE)) == [run]


async def test_a_project_never_runs_more_of_a_kind_than_its_bound(house: House) -> None:
    busy, other = IDS.new_id(), IDS.new_id()
    ids = await house.requested(busy, count=3)
    (elsewhere,) = await house.requested(other)
    first = await house.claim(per_project=2)
    assert ids_of(first) == [*ids[:2], elsewhere]
    assert list(await house.claim(per_project=2)) == []
    first[0].fail(context_at(house.clock, busy), error="no")
    await house.log.append(first[0])
    assert ids_of(await house.claim(per_project=2)) == ids[2:]


async def test_racing_workers_never_get_the_same_operation_nor_pass_the_bound(
    house: House,
) -> None:
    projects = [IDS.new_id() for _ in range(3)]
    for project_id in projects:
        await house.requested(project_id, count=8)
    rounds = await asyncio.gather(
        *(house.claim(f"w{n}", limit=2, per_project=5) for n in range(12))
    )
    claimed = [operation for batch in rounds for operation in batch]
    assert len({o.id for o in claimed}) == len(claimed) == 15
    assert [sum(o.project_id == p for o in claimed) for p in projects] == [5, 5, 5]


async def test_leases_expire_unless_renewed_by_who_holds_them(house: House) -> None:
    ids = await house.requested(IDS.new_id(), count=3)
    over = house.clock.now() - timedelta(seconds=10)
    await house.claim("w1", limit=2, lease_until=over)
    await house.claim("w2", limit=1, lease_until=over)
    assert list(await house.queue.abandoned()) == ids
    await house.queue.renew([ids[0], ids[2]], worker="w1", lease_s=30)
    assert list(await house.queue.abandoned()) == ids[1:]
    await house.queue.renew([ids[2]], worker="w2", lease_s=30)
    assert list(await house.queue.abandoned()) == [ids[1]]


@pytest.mark.parametrize("skew_s", [-3600, 3600])
async def test_a_lease_is_as_long_as_it_is_whatever_the_clock_of_its_worker(
    house: House, skew_s: float
) -> None:
    await house.requested(IDS.new_id(), count=1)
    before = await house.queue.renew([], worker="w1", lease_s=60)
    if isinstance(house.queue, PostgresWorkQueue):
        house.clock.advance((before - house.clock.now()).total_seconds() + skew_s)
    await house.claim("w1")
    assert list(await house.queue.abandoned()) == []


async def test_a_renewal_tells_the_time_by_which_leases_are_counted(house: House) -> None:
    first = await house.queue.renew([], worker="w1", lease_s=60)
    assert first.utcoffset() == timedelta()
    assert await house.queue.renew([], worker="w1", lease_s=60) >= first


@pytest.mark.postgres
async def test_renewal_waits_for_no_append(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, listener: PostgresListener
) -> None:
    """An append that ends several operations locks their leases in its own order."""
    house = real_house(postgres_pool, listener)
    ids = await house.requested(IDS.new_id(), count=3)
    await house.claim("w1", lease_until=house.clock.now() - timedelta(seconds=10))
    ending = await asyncpg.connect(postgres_dsn)
    try:
        async with ending.transaction():
            await ending.execute("SELECT FROM queue WHERE operation_id = $1 FOR UPDATE", ids[1])
            async with asyncio.timeout(5):
                await house.queue.renew(ids, worker="w1", lease_s=30)
    finally:
        await ending.close()
    assert list(await house.queue.abandoned()) == [ids[1]]


@pytest.mark.postgres
async def test_leases_are_renewed_while_all_other_connections_are_busy(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    listener: PostgresListener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "ACQUIRE_TIMEOUT_S", 0.05)
    leases = await open_pool(postgres_dsn, connections_min=0, connections_max=1)
    house = real_house(postgres_pool, listener, leases=leases)
    queue = house.queue
    ids = await house.requested(IDS.new_id(), count=1)
    await house.claim("w1", lease_until=house.clock.now() - timedelta(seconds=10))
    async with contextlib.AsyncExitStack() as busy:
        for _ in range(CONNECTIONS_MAX):
            await busy.enter_async_context(postgres_pool.acquire(timeout=10))
        with pytest.raises(UnavailableError, match="no answer in time"):
            await queue.look(worker="w1")
        await queue.renew(ids, worker="w1", lease_s=30)
        assert list(await queue.abandoned()) == []
    await leases.close()


async def test_all_that_a_worker_still_holds_is_told(house: House) -> None:
    ids = await house.requested(IDS.new_id(), count=3)
    claimed = await house.claim("w1", limit=2)
    await house.claim("w2")
    claimed[0].start(context_at(house.clock, IDS.new_id()))
    await house.log.append(claimed[0])
    assert list(await house.queue.abandoned(worker="w1")) == ids[:2]


async def test_a_requeued_operation_is_nobodys_and_may_be_claimed_again(house: House) -> None:
    (id_,) = await house.requested(IDS.new_id())
    (operation,) = await house.claim("w1")
    operation.lose(context_at(house.clock, IDS.new_id()), reason="gone")
    await house.log.append(operation)
    assert list(await house.queue.abandoned()) == []
    assert list(await house.queue.abandoned(worker="w1")) == []
    (again,) = await house.claim("w2")
    assert (again.id, again.attempts) == (id_, 2)


async def test_an_ended_operation_is_not_held(house: House) -> None:
    await house.requested(IDS.new_id())
    (operation,) = await house.claim("w1")
    operation.succeed(context_at(house.clock, IDS.new_id()), result_image_id=None)
    await house.log.append(operation)
    assert list(await house.queue.abandoned()) == []
    assert list(await house.queue.abandoned(worker="w1")) == []


async def test_wishes_to_cancel_reach_the_worker_that_holds_the_operation(house: House) -> None:
    ids = await house.requested(IDS.new_id(), count=2)
    first, _ = await house.claim("w1")
    first.cancel(context_at(house.clock, IDS.new_id()))
    await house.log.append(first)
    assert list((await house.queue.look(worker="w1")).unwanted) == ids[:1]
    assert list((await house.queue.look(worker="w2")).unwanted) == []
    first.cancelled(context_at(house.clock, IDS.new_id()))
    await house.log.append(first)
    assert list((await house.queue.look(worker="w1")).unwanted) == []


async def test_kinds_that_wait_are_seen_until_they_are_claimed(house: House) -> None:
    assert (await house.queue.look(worker="w1")).pending == set()
    await house.requested(IDS.new_id(), count=2)
    [kind] = (await house.queue.look(worker="w1")).pending
    await house.claim("w1", limit=1)
    assert (await house.queue.look(worker="w2")).pending == {kind}
    await house.claim("w1")
    assert (await house.queue.look(worker="w2")).pending == set()


EVERYTHING = Wake(waiting=frozenset(Kind), unwanted=True)


async def test_what_comes_in_wakes_whoever_waits_and_nothing_else_that_is_appended_does(
    house: House,
) -> None:
    wakeups = house.queue.wakeups(worker="w1", poll_s=60)
    assert await anext(wakeups) == EVERYTHING
    waiting = asyncio.ensure_future(anext(wakeups))
    project_id = IDS.new_id()
    (id_,) = await house.requested(project_id)
    assert await asyncio.wait_for(waiting, 10) == Wake(
        waiting=frozenset([Kind.INSTANCE]), unwanted=False
    )
    waiting = asyncio.ensure_future(anext(wakeups))
    await house.claim("w1")
    operation = await house.load(id_)
    operation.start(context_at(house.clock, project_id))
    operation.signalled(context_at(house.clock, project_id), spid=1, signal=2)
    await house.log.append(operation)
    operation.succeed(context_at(house.clock, project_id), result_image_id=None)
    await house.log.append(operation)
    # Announcements come in order: were one of these announced, it would be told first.
    await house.requested(project_id, kind=Kind.IMPORT)
    assert await asyncio.wait_for(waiting, 10) == Wake(
        waiting=frozenset([Kind.IMPORT]), unwanted=False
    )
    await wakeups.aclose()


async def test_what_is_handed_back_wakes(house: House) -> None:
    await house.requested(IDS.new_id())
    (operation,) = await house.claim("w1")
    wakeups = house.queue.wakeups(worker="w2", poll_s=60)
    await anext(wakeups)
    waiting = asyncio.ensure_future(anext(wakeups))
    operation.lose(context_at(house.clock, operation.project_id), reason="gone", counted=False)
    await house.log.append(operation)
    assert await asyncio.wait_for(waiting, 10) == Wake(
        waiting=frozenset([Kind.INSTANCE]), unwanted=False
    )
    await wakeups.aclose()


async def test_a_wish_to_cancel_wakes_the_worker_that_is_to_stop_and_no_other(
    house: House,
) -> None:
    project_id = IDS.new_id()
    await house.requested(project_id)
    (operation,) = await house.claim("w1")
    wakeups = [house.queue.wakeups(worker=name, poll_s=60) for name in ("w1", "w2")]
    for one in wakeups:
        await anext(one)
    waiting = [asyncio.ensure_future(anext(one)) for one in wakeups]
    operation.cancel(context_at(house.clock, project_id))
    await house.log.append(operation)
    assert await asyncio.wait_for(waiting[0], 10) == Wake(waiting=frozenset(), unwanted=True)
    await house.requested(project_id)
    assert await asyncio.wait_for(waiting[1], 10) == Wake(
        waiting=frozenset([Kind.INSTANCE]), unwanted=False
    )
    for one in wakeups:
        await one.aclose()


async def test_waiting_ends_without_an_append_after_the_poll_time(house: House) -> None:
    wakeups = house.queue.wakeups(worker="w1", poll_s=0.05)
    for _ in range(3):
        await asyncio.wait_for(anext(wakeups), 10)
    await wakeups.aclose()
