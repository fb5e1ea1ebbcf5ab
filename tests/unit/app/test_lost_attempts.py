"""An operation always comes to its end, whatever its worker could not record or was not told."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import pytest

from contree.app.clock import Clock
from contree.app.request_run import RunOrder
from contree.domain.errors import ConflictError, UnavailableError
from contree.domain.operation import (
    Operation,
    OperationAssigned,
    OperationCancelled,
    OperationRequeued,
    Status,
)
from contree.worker import loop
from tests.fakes.event_log import FakeEventLog
from tests.fakes.microvm import FakeProcess
from tests.fakes.work_queue import FakeWorkQueue
from tests.unit.app.test_fail_closed import WAIT_S, Watched
from tests.unit.app.world import World, a_caller

ORDER = RunOrder(image="tag:base", command="main")


async def test_a_cancellation_that_the_log_refuses_is_recorded_when_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world = Watched()
    async with world.working():
        await world.imported()
        operation, _ = await world.runs.request(a_caller(), ORDER)
        async with asyncio.timeout(WAIT_S):
            await world.began_one.get()
            world.refusing.refuse = OperationCancelled
            await world.cancellation.cancel(a_caller(), operation)
            await world.log.refused.get()
        world.refusing.refuse, world.log.full = None, False
        assert (await world.end_of(operation)).status is Status.CANCELLED


class Deaf(FakeWorkQueue):
    """The answer to one claim is lost on its way, after it was committed."""

    is_deaf = False

    async def claim(self, **wanted: object) -> Sequence[Operation]:
        claimed = await super().claim(**wanted)
        if self.is_deaf and claimed:
            self.is_deaf = False
            raise UnavailableError("the connection broke after the commit")
        return claimed


async def test_a_claim_that_its_worker_never_heard_of_is_handed_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what it knows of runs on."""
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    begun: asyncio.Queue[FakeProcess] = asyncio.Queue()
    may_end = asyncio.Event()

    async def program(process: FakeProcess) -> int:
        begun.put_nowait(process)
        await may_end.wait()
        return 0

    world = World({"main": program})
    world.queue = queue = Deaf(world.log, world.clock)
    async with world.working(), asyncio.timeout(WAIT_S):
        await world.imported()
        first, _ = await world.runs.request(a_caller(), ORDER)
        await begun.get()
        queue.is_deaf = True
        second, _ = await world.runs.request(a_caller(), ORDER)
        await begun.get()
        may_end.set()
        assert (await world.end_of(first)).status is Status.SUCCESS
        assert (await world.end_of(second)).status is Status.SUCCESS
    requeued = [e for e in world.log.events if isinstance(e, OperationRequeued)]
    assert [(e.originator_id, e.reason, e.counted) for e in requeued] == [
        (second, "the answer to its claim was lost", False)
    ]


async def test_an_attempt_that_was_given_up_ends_when_its_worker_gets_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a lease ran out while the database was away, and another worker saw it first."""
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    begun: asyncio.Queue[FakeProcess] = asyncio.Queue()
    may_end = asyncio.Event()

    async def program(process: FakeProcess) -> int:
        begun.put_nowait(process)
        await may_end.wait()
        return 0

    world = World({"main": program})
    async with world.working():
        await world.imported()
        operation, _ = await world.runs.request(a_caller(), ORDER)
        async with asyncio.timeout(WAIT_S):
            await begun.get()
            await world.conclude.lose(operation, "the worker's lease ran out")
            await begun.get()
        assert len(world.microvm.running) == 1
        may_end.set()
        assert (await world.end_of(operation)).status is Status.SUCCESS
    assert assigned(world, operation) == 2


class Contended(FakeWorkQueue):
    """Loses its first race for each of its calls, as a deadlock in the database is reported."""

    def __init__(self, log: FakeEventLog, clock: Clock) -> None:
        super().__init__(log, clock)
        self.lost = {"claim": False, "renew": False}

    async def claim(self, **wanted: object) -> Sequence[Operation]:
        self._lose_one("claim")
        return await super().claim(**wanted)

    async def renew(self, operation_ids: Collection[UUID], **wanted: object) -> datetime:
        self._lose_one("renew")
        return await super().renew(operation_ids, **wanted)

    def _lose_one(self, call: str) -> None:
        if not self.lost[call]:
            self.lost[call] = True
            raise ConflictError("another transaction was in the way")


async def test_a_worker_goes_on_after_a_lost_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world = World()
    world.queue = queue = Contended(world.log, world.clock)
    async with world.working():
        await world.imported()
    assert queue.lost == {"claim": True, "renew": True}


def assigned(world: World, operation: UUID) -> int:
    return sum(
        isinstance(e, OperationAssigned) and e.originator_id == operation for e in world.log.events
    )
