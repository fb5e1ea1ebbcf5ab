"""Imports, cancellation, draining and recovery, with a worker over in-memory parts."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from contree.app import outages
from contree.app.images.image_source import Credentials
from contree.app.images.request_import import ImportOrder
from contree.app.outages import Outages
from contree.app.request_run import RunOrder
from contree.domain.errors import InvalidFieldError, PermissionMissingError
from contree.domain.image import ImageImported
from contree.domain.operation import (
    ATTEMPTS_MAX,
    Kind,
    OperationAssigned,
    OperationRequeued,
    Status,
)
from contree.domain.token import Permission
from contree.worker import loop, obstacles
from contree.worker.room import FixedAdmission, Room
from tests.fakes.image_source import PublishedImage
from tests.support.registry import tar_of
from tests.unit.app.world import PROJECT, URL, World, a_caller


class Narrow:
    """Room for one more than run, never for more than three; `passed` if that was not kept."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.passed = False

    def room(self, running: int) -> Room:
        self.asked.append(running)
        self.passed |= running > 3
        return Room(more=1 if running < 3 else 0, bound="test", reason="of the test")


AN_IMPORT = ImportOrder(registry_url=URL)
PRIVATE = "docker://registry.example/private:1"


async def test_an_unchanged_remote_image_is_the_same_image_and_the_tag_moves() -> None:
    world = World()
    async with world.working():
        first = await world.imported(tag="one")
        second = await world.imported(tag="two")
    assert first == second
    assert len([e for e in world.log.events if isinstance(e, ImageImported)]) == 1
    assert set(await world.images.tags_of(PROJECT, first)) == {"one", "two"}


async def test_an_import_without_a_tag_is_reachable_by_its_id_only() -> None:
    world = World()
    async with world.working():
        image = await world.imported(tag=None)
    row = await world.images.get(PROJECT, image)
    assert row is not None
    assert row.tag is None


async def test_a_password_is_used_sealed_and_gone_and_never_recorded() -> None:
    world = World()
    right = Credentials(username="me", password="pa55word")
    world.source.publish(
        PRIVATE,
        PublishedImage(layers=[tar_of([("x", b"")])], env={}, workdir="", credentials=right),
    )
    async with world.working():
        await world.imported(registry_url=PRIVATE, credentials=right, tag=None)
        wrong = Credentials(username="me", password="wr0ng")
        order = ImportOrder(registry_url=PRIVATE, credentials=wrong)
        row = await world.end_of(await world.imports.request(a_caller(), order))
    assert row.status is Status.FAILED
    assert "refused the credentials" in (row.error or "")
    assert row.request["username"] == "me"
    recorded = repr([vars(event) for event in world.log.events])
    assert "pa55word" not in recorded
    assert "wr0ng" not in recorded
    assert await world.log.sealed(row.operation_id) is None


async def test_what_a_registry_does_not_give_fails_with_its_reason() -> None:
    world = World()
    world.source.damaged.add(URL)
    async with world.working():
        for url, reason in {
            URL: "damaged",
            "docker://registry.example/none:1": "does not have",
            "docker://nowhere.example/x:1": "cannot be reached",
        }.items():
            operation_id = await world.imports.request(a_caller(), ImportOrder(registry_url=url))
            row = await world.end_of(operation_id)
            assert (row.status, row.result_image_id) == (Status.FAILED, None)
            assert reason in (row.error or "")


async def test_an_import_that_takes_too_long_fails_by_its_timeout() -> None:
    world = World()
    world.source.stalled.add(URL)
    async with world.working():
        operation_id = await world.imports.request(
            a_caller(), ImportOrder(registry_url=URL, timeout_s=1)
        )
        row = await world.end_of(operation_id)
    assert row.status is Status.FAILED
    assert row.error is not None


async def test_import_orders_are_refused_by_field() -> None:
    world = World()
    for problem, order in {
        "registry.url": ImportOrder(registry_url="ftp://x/y"),
        "tag": ImportOrder(registry_url=URL, tag="no spaces"),
        "timeout": ImportOrder(registry_url=URL, timeout_s=0),
        "registry.credentials": ImportOrder(
            registry_url=URL, credentials=Credentials(username="u", password="p" * 20_000)
        ),
    }.items():
        with pytest.raises(InvalidFieldError, match=problem):
            await world.imports.request(a_caller(), order)
    with pytest.raises(PermissionMissingError):
        await world.imports.request(a_caller(Permission.LIST), ImportOrder(registry_url=URL))
    assert world.log.events == []


async def started(world: World, *command: str):
    base = await world.imported()
    operation_id, _ = await world.runs.request(
        a_caller(), RunOrder(image=str(base), command=command[0], args=command[1:])
    )
    async for _ in world.queue.wakeups(worker="nobody", poll_s=0.01):
        if (await world.row(operation_id)).status is Status.EXECUTING:
            break
    return operation_id


async def test_a_running_command_is_cancelled_and_its_guest_is_gone() -> None:
    world = World()
    async with world.working():
        operation_id = await started(world, "sleep", "60")
        await world.cancellation.cancel(a_caller(), operation_id)
        row = await world.end_of(operation_id)
        assert world.microvm.running == []
    assert (row.status, row.result_image_id) == (Status.CANCELLED, None)


async def test_a_worker_that_stops_puts_back_what_it_could_not_finish() -> None:
    world = World()
    stop = asyncio.Event()
    worker = asyncio.create_task(world.worker().run(stop))
    operation_id = await started(world, "sleep", "60")
    stop.set()
    await worker
    assert (await world.row(operation_id)).status is Status.PENDING
    assert world.microvm.running == []
    reasons = [e.reason for e in world.log.events if isinstance(e, OperationRequeued)]
    assert reasons == ["worker w was stopped"]


async def test_while_the_store_is_away_nothing_is_lost_and_no_attempt_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outages, "PAUSE_FIRST_S", 0.01)
    world = World()
    async with world.working(), asyncio.timeout(10):
        order = RunOrder(image=str(await world.imported()), command="echo", args=("out",))
        world.blobs.away = True
        first, _ = await world.runs.request(a_caller(), order)
        await world.blobs.missed.get()
        second, _ = await world.runs.request(a_caller(), order)
        for _ in range(4):
            await world.blobs.missed.get()
        assert (await world.row(first)).status is Status.EXECUTING
        assert (await world.row(second)).status is Status.PENDING, "another worker may have it"
        assert not [e for e in world.log.events if isinstance(e, OperationRequeued)]
        world.blobs.away = False
        assert (await world.end_of(first)).status is Status.SUCCESS
        assert (await world.end_of(second)).status is Status.SUCCESS
    assert not [e for e in world.log.events if isinstance(e, OperationRequeued)]


async def test_what_was_away_for_too_long_is_handed_back_and_goes_on_when_it_is_back() -> None:
    world = World(outages=Outages(within_s=0))
    async with world.working(), asyncio.timeout(10):
        order = RunOrder(image=str(await world.imported()), command="echo", args=("out",))
        world.blobs.away = True
        operation_id, _ = await world.runs.request(a_caller(), order)
        for _ in range(ATTEMPTS_MAX + 2):
            await world.blobs.missed.get()
        world.blobs.away = False
        assert (await world.end_of(operation_id)).status is Status.SUCCESS
    requeued = [e for e in world.log.events if isinstance(e, OperationRequeued)]
    assert len(requeued) >= ATTEMPTS_MAX
    assert {(e.reason, e.counted) for e in requeued} == {
        ("what it needs was away: the store is away", False)
    }


async def looks_of(world: World, count: int) -> None:
    """Wait until the worker has looked at its host so many times more."""
    enough = world.looks + count
    while world.looks < enough:  # noqa: ASYNC110 - a count tells nobody
        await asyncio.sleep(0.001)


async def test_while_the_host_lacks_a_program_nothing_is_taken_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world = World()
    async with world.working(), asyncio.timeout(10):
        order = RunOrder(image=str(await world.imported()), command="echo", args=("out",))
        world.lack = "mke2fs is not installed"
        await looks_of(world, 2)
        waiting, _ = await world.runs.request(a_caller(), order)
        await looks_of(world, 20)
        assert (await world.row(waiting)).status is Status.PENDING
        world.lack = None
        assert (await world.end_of(waiting)).status is Status.SUCCESS
    assert world.told == ["mke2fs is not installed", None]
    assert not [e for e in world.log.events if isinstance(e, OperationRequeued)]


async def test_a_worker_that_starts_waits_for_what_its_host_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(obstacles, "LOOK_S", 0.01)
    world, stop = World(), asyncio.Event()
    assert await world.obstacles.until_none(unless=stop)
    world.lack = "rg"
    complete = asyncio.create_task(world.obstacles.until_none(unless=stop))
    async with asyncio.timeout(10):
        await looks_of(world, 3)
        assert not complete.done()
        world.lack = None
        assert await complete
    world.lack = "rg"
    stop.set()
    assert not await world.obstacles.until_none(unless=stop)
    assert world.told == ["rg", None, "rg"]


async def test_a_worker_tells_what_it_does_and_what_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world, stop = World(), asyncio.Event()
    worker = world.worker()
    assert (worker.renewed_at, worker.free()) == (None, {Kind.INSTANCE: 2, Kind.IMPORT: 2})
    working = asyncio.create_task(worker.run(stop))
    async with asyncio.timeout(10):
        await started(world, "sleep", "60")
        assert worker.renewed_at == world.clock.now()
        assert worker.running == {Kind.INSTANCE: 1, Kind.IMPORT: 0}
        assert worker.free() == {Kind.INSTANCE: 1, Kind.IMPORT: 2}
        world.blobs.away = True
        await world.runs.request(a_caller(), RunOrder(image="tag:base", command="echo"))
        await world.blobs.missed.get()
        assert worker.free() == {Kind.INSTANCE: 0, Kind.IMPORT: 0}, "the store is away"
        world.blobs.away = False
        stop.set()
        await working


async def test_what_waits_for_the_store_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSE_FIRST_S", 0.01)
    world = World()
    async with world.working(), asyncio.timeout(10):
        order = RunOrder(image=str(await world.imported()), command="echo", args=("out",))
        world.blobs.away = True
        operation_id, _ = await world.runs.request(a_caller(), order)
        await world.blobs.missed.get()
        await world.cancellation.cancel(a_caller(), operation_id)
        assert (await world.end_of(operation_id)).status is Status.CANCELLED


async def test_guests_are_made_to_wait_only_while_nothing_is_queued_or_running() -> None:
    world = World()
    world.waiting = 3
    async with world.working():
        operation_id = await started(world, "sleep", "60")
        assert world.microvm.waiting == (3, False)
        await world.cancellation.cancel(a_caller(), operation_id)
        await world.end_of(operation_id)
        async for _ in world.queue.wakeups(worker="nobody", poll_s=0.01):
            if world.microvm.waiting == (3, True):
                break
    assert world.microvm.waiting == (0, False), "a worker that stops needs none"


async def test_a_worker_that_starts_again_takes_back_what_its_earlier_life_held() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
    operation_id, _ = await world.runs.request(
        a_caller(), RunOrder(image=str(base), command="echo")
    )
    context = a_caller().context(world.clock.now())
    claimed = await world.queue.claim(
        worker="w",
        kind=Kind.INSTANCE,
        limit=1,
        running_per_project_max=9,
        lease_until=world.clock.now() + timedelta(seconds=60),
        context=context,
    )
    assert [o.id for o in claimed] == [operation_id]  # ... and then it was killed
    world.microvm.left_behind = 1
    async with world.working():
        row = await world.end_of(operation_id)
    assert row.status is Status.SUCCESS
    assert world.microvm.left_behind == 0
    reasons = [e.reason for e in world.log.events if isinstance(e, OperationRequeued)]
    assert reasons == ["worker w died"]


async def test_a_lost_database_is_waited_for_and_the_operation_ends() -> None:
    world = World()
    async with world.working():
        operation_id = await started(world, "sleep", "0.2")
        world.log.available = False
        await asyncio.sleep(0.5)
        world.log.available = True
        row = await world.end_of(operation_id)
    assert row.status is Status.SUCCESS


async def test_a_database_without_room_is_waited_for_and_the_operation_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world = World()
    async with world.working():
        operation_id = await started(world, "sleep", "0.05")
        world.log.full = True
        async with asyncio.timeout(30):
            for _ in range(4):  # the success, its failure, and the loss of the attempt, again
                await world.log.refused.get()
        world.log.full = False
        row = await world.end_of(operation_id)
    assert row.status is Status.SUCCESS


async def test_a_project_that_comes_later_is_served_in_turn_through_the_worker() -> None:
    # One at a time: the hardest case. The long queue is there before the worker looks.
    world = World(admission=FixedAdmission(most=1, setting="here"), per_project=10)
    many, one = a_caller(), a_caller(project_id=UUID(int=2))
    async with world.working():
        imported = [await world.imports.request(caller, AN_IMPORT) for caller in (many, one)]
        images = [await world.image_of(operation_id) for operation_id in imported]
    queued = [
        (await world.runs.request(many, RunOrder(image=str(images[0]), command="echo")))[0]
        for _ in range(30)
    ]
    later, _ = await world.runs.request(one, RunOrder(image=str(images[1]), command="echo"))
    async with world.working():
        await asyncio.gather(*map(world.image_of, [*queued, later]))
    order = [e.originator_id for e in world.log.events if isinstance(e, OperationAssigned)]
    assert order[len(imported) :].index(later) == 1


async def test_the_worker_takes_on_what_admission_has_room_for_and_asks_again() -> None:
    room = Narrow()
    world = World(admission=room, per_project=10)
    async with world.working():
        base = await world.imported()
        rows = await asyncio.gather(*(world.ran(base, "sleep", "0.02") for _ in range(6)))
    assert {row.status for row in rows} == {Status.SUCCESS}
    assert room.passed is False
    assert max(room.asked) >= 1


async def test_no_more_runs_at_once_than_there_is_room_for() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        rows = await asyncio.gather(*(world.ran(base, "sleep", "0.05") for _ in range(6)))
    assert {r.status for r in rows} == {Status.SUCCESS}
    peak = running = 0
    for event in world.log.events:
        name = type(event).__name__
        running += {"OperationStarted": 1, "OperationSucceeded": -1}.get(name, 0)
        peak = max(peak, running)
    assert peak <= 2
