"""A worker that is stopped, or whose disk is full: what it runs costs no attempt, and is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import pytest

from contree.app.request_run import RunOrder
from contree.domain.errors import StorageFullError
from contree.domain.operation import ATTEMPTS_MAX, Kind, OperationRequeued, Status
from contree.worker import attempts, loop
from contree.worker.obstacles import DiskFloor, Obstacle, Obstacles
from tests.fakes.microvm import FakeProcess
from tests.unit.app.world import World, a_caller

WAIT_S = 10
MIB = 1024**2
ORDER = RunOrder(image="tag:base", command="main")


class Held(World):
    """Runs go on until they are let go; `begun` tells of each."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.may_end = asyncio.Event()

        async def program(_: FakeProcess) -> int:
            self.begun.put_nowait(None)
            await self.may_end.wait()
            return 0

        super().__init__({"main": program})

    def requeued(self) -> list[tuple[str, bool]]:
        events = [e for e in self.log.events if isinstance(e, OperationRequeued)]
        return [(event.reason, event.counted) for event in events]

    @asynccontextmanager
    async def stopping(self, at_once: asyncio.Event):
        """A worker that has begun one run and was asked to stop; yields the run and the worker."""
        stop = asyncio.Event()
        working = asyncio.create_task(self.worker().run(stop, at_once=at_once))
        await self.imported()
        operation, _ = await self.runs.request(a_caller(), ORDER)
        await self.begun.get()
        stop.set()
        yield operation, working


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)


async def test_any_number_of_restarts_fails_no_run() -> None:
    world = Held()
    async with asyncio.timeout(WAIT_S):
        async with world.working():
            await world.imported()
        operation, _ = await world.runs.request(a_caller(), ORDER)
        for _ in range(ATTEMPTS_MAX + 1):
            async with world.working():
                await world.begun.get()
        world.may_end.set()
        async with world.working():
            assert (await world.end_of(operation)).status is Status.SUCCESS
    assert world.requeued() == [("worker w was stopped", False)] * (ATTEMPTS_MAX + 1)


async def test_what_runs_may_come_to_its_end_and_nothing_more_is_begun() -> None:
    world = Held()
    world.drain_s = WAIT_S
    async with asyncio.timeout(WAIT_S), world.stopping(asyncio.Event()) as (operation, working):
        await asyncio.sleep(0.02)  # the signal is heard
        waiting, _ = await world.runs.request(a_caller(), ORDER)
        await asyncio.sleep(0.05)
        assert not working.done()
        assert (await world.row(waiting)).status is Status.PENDING
        world.may_end.set()
        await working
        assert (await world.row(operation)).status is Status.SUCCESS
        assert (await world.row(waiting)).status is Status.PENDING
    assert world.requeued() == []


async def test_a_client_can_cancel_what_a_worker_that_stops_still_runs() -> None:
    world = Held()
    world.drain_s = WAIT_S
    async with asyncio.timeout(WAIT_S), world.stopping(asyncio.Event()) as (operation, working):
        await world.cancellation.cancel(a_caller(), operation)
        await working
        assert (await world.row(operation)).status is Status.CANCELLED


async def test_a_second_signal_hands_back_at_once() -> None:
    world, at_once = Held(), asyncio.Event()
    world.drain_s = 10_000
    async with asyncio.timeout(WAIT_S), world.stopping(at_once) as (operation, working):
        await asyncio.sleep(0.02)
        assert not working.done()
        at_once.set()
        await working
        assert (await world.row(operation)).status is Status.PENDING
    assert world.requeued() == [("worker w was stopped", False)]
    assert world.microvm.running == []


async def test_leases_are_renewed_until_the_last_run_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Held()
    world.drain_s = WAIT_S
    renewed: asyncio.Queue[Collection[UUID]] = asyncio.Queue()
    renew = world.queue.renew

    async def noted(operation_ids: Collection[UUID], **wanted: object) -> datetime:
        renewed.put_nowait(operation_ids)
        return await renew(operation_ids, **wanted)

    monkeypatch.setattr("contree.worker.leases.LEASE_S", 0.03)
    monkeypatch.setattr(world.queue, "renew", noted)
    async with asyncio.timeout(WAIT_S), world.stopping(asyncio.Event()) as (operation, working):
        await asyncio.sleep(0.02)
        while not renewed.empty():
            renewed.get_nowait()
        assert await renewed.get() == (operation,)
        world.may_end.set()
        await working


async def test_a_host_without_room_claims_nothing_says_so_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    world, stop = Held(), asyncio.Event()
    world.may_end.set()
    worker = world.worker()
    working = asyncio.create_task(worker.run(stop))
    async with asyncio.timeout(WAIT_S):
        await world.imported()
        world.disk_is_full = True
        operation, _ = await world.runs.request(a_caller(), ORDER)
        while "claims nothing" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.01)
        assert worker.obstacle == Obstacle(kind="disk", reason="of the test")
        assert worker.free() == {Kind.INSTANCE: 0, Kind.IMPORT: 0}
        assert (await world.row(operation)).status is Status.PENDING
        world.disk_is_full = False
        assert (await world.end_of(operation)).status is Status.SUCCESS
        stop.set()
        await working
    assert caplog.text.count("claims nothing, disk: of the test") == 1
    assert caplog.text.count("claims again") == 1
    assert worker.obstacle == Obstacle(kind="draining", reason="it is to stop")


@pytest.mark.parametrize("fills_itself", [True, False])
async def test_a_full_disk_is_an_attempt_only_of_a_run_that_fills_it(
    fills_itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's full disk is still full when the files of the run are gone."""
    monkeypatch.setattr(attempts, "ROOM_BACK_S", 0.05)
    world = Held()
    world.may_end.set()
    refused: asyncio.Queue[None] = asyncio.Queue()
    put_bytes = world.content.put_bytes

    async def full(_: UUID, __: bytes) -> None:
        world.disk_is_full = not fills_itself
        refused.put_nowait(None)
        raise StorageFullError("no room for an output")

    async with asyncio.timeout(WAIT_S), world.working():
        await world.imported()
        monkeypatch.setattr(world.content, "put_bytes", full)
        operation, _ = await world.runs.request(a_caller(), ORDER)
        if fills_itself:
            row = await world.end_of(operation)
            assert row.error == "gave up after 3 attempts: no room for an output"
            assert world.requeued() == [("no room for an output", True)] * (ATTEMPTS_MAX - 1)
            return
        for count in range(1, ATTEMPTS_MAX + 2):
            await refused.get()
            while len(world.requeued()) < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            if count > ATTEMPTS_MAX:
                monkeypatch.setattr(world.content, "put_bytes", put_bytes)
            world.disk_is_full = False
        assert (await world.end_of(operation)).status is Status.SUCCESS
    assert set(world.requeued()) == {("no room for an output", False)}


@pytest.mark.parametrize(
    ("free_mib", "reason"),
    [
        (1024, None),
        (
            1023,
            "1023 MiB are free below data_dir, less than disk_reserve_mib 1024: make room there",
        ),
    ],
)
def test_room_is_kept_on_the_disk(free_mib: int, reason: str | None) -> None:
    floor = DiskFloor(free_bytes=lambda: free_mib * MIB, reserve_bytes=1024 * MIB)
    assert floor() == (None if reason is None else Obstacle(kind="disk", reason=reason))


def test_a_disk_that_cannot_be_asked_is_in_the_way() -> None:
    def gone() -> int:
        raise FileNotFoundError(2, "No such file or directory")

    found = DiskFloor(free_bytes=gone, reserve_bytes=0)()
    assert found == Obstacle(
        kind="disk", reason="data_dir cannot be used: [Errno 2] No such file or directory"
    )


def test_a_supervisor_is_told_when_what_is_in_the_way_changes() -> None:
    now: list[Obstacle | None] = [None]
    told: list[str | None] = []
    obstacles = Obstacles([lambda: now[0]], told=told.append)
    for kind in (None, "disk", "disk", "name", None, None):
        now[0] = None if kind is None else Obstacle(kind=kind, reason=f"why {kind}")
        assert obstacles.in_the_way() is (kind is not None)
    assert told == ["why disk", "why name", None]
