"""What is away is waited for; what was done meanwhile is done once, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import pytest

from contree.app import outages
from contree.app.guest.guest_control import Action, GuestCommand
from contree.app.operation_history import OperationHistory
from contree.app.outages import LOG_AWAY, Outages
from contree.domain.aggregate import Aggregate
from contree.domain.errors import StorageFullError, UnavailableError
from contree.domain.operation import (
    Operation,
    OperationStarted,
    OperationSucceeded,
    ProcessSignalled,
    SubprocessSpawned,
)
from contree.domain.subprocess import SubprocessSpec
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.support.histories import a_spec, context_at
from tests.unit.app.world import World

PROJECT = UUID(int=1)


@pytest.fixture(autouse=True)
def _pauses_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSE_FIRST_S", 0.001)


class Away:
    """Fails so often, then returns 7."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error
        self.problems: list[str | None] = []

    async def __call__(self) -> int:
        if self.left:
            self.left -= 1
            raise self.error
        return 7


async def test_a_call_is_repeated_until_what_it_needs_is_back() -> None:
    waiting, seen = Outages(), []
    away = Away(3, UnavailableError("gone"))

    async def attempt() -> int:
        seen.append(waiting.problem)
        return await away()

    assert await waiting.waited_out("it", attempt) == 7
    assert seen == [None, "gone", "gone", "gone"]
    assert waiting.problem is None


async def test_waiting_is_bounded_and_ends_with_the_error() -> None:
    waiting = Outages(within_s=0.05)
    with pytest.raises(UnavailableError, match="gone"):
        await waiting.waited_out("it", Away(1_000_000, UnavailableError("gone")))
    assert waiting.problem is None


async def test_only_what_comes_back_is_waited_for() -> None:
    full = StorageFullError("no room")
    with pytest.raises(StorageFullError):
        await Outages().waited_out("it", Away(1, full))
    assert await Outages().waited_out("it", Away(1, full), on=LOG_AWAY) == 7


async def test_a_stream_that_breaks_off_goes_on_where_it_was() -> None:
    pieces = [b"abc", b"", b"defg", b"h"]
    breaks = [2, 0, 3, 1, 9]
    opened = 0

    async def stream() -> AsyncGenerator[bytes, None]:
        nonlocal opened
        opened += 1
        for number, piece in enumerate(p for p in pieces if p):
            if breaks[opened - 1] == number:
                raise UnavailableError("the store is away")
            yield piece
        if breaks[opened - 1] == 3:
            raise UnavailableError("the store is away")

    got = [piece async for piece in Outages().read("it", stream)]
    assert b"".join(got) == b"abcdefgh"
    assert opened == 5


class LostAnswers(FakeEventLog):
    """Of each append that holds one of `lossy`, the first answer is lost: it was done or not."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self.lossy: set[type] = set()
        self.done = done

    async def append(self, *aggregates: Aggregate, **options: object) -> None:
        kinds = {type(event) for a in aggregates for event in a.pending_events} & self.lossy
        if not kinds:
            await super().append(*aggregates, **options)
            return
        self.lossy -= kinds
        if self.done:
            await super().append(*aggregates, **options)
        else:
            for aggregate in aggregates:
                aggregate.collect_events()
        raise UnavailableError("the connection broke in the middle of an append")


@pytest.mark.parametrize("done", [True, False])
async def test_a_run_of_which_answers_are_lost_is_recorded_once(done: bool) -> None:
    log = LostAnswers(done=done)
    world = World(log=log)
    async with world.working():
        base = await world.imported()
        log.lossy = {OperationStarted, OperationSucceeded}
        row = await world.ran(base, "touch", "/new")
    assert row.result_image_id is not None
    assert log.lossy == set()
    told = [type(e).__name__ for e in log.events if e.originator_id == row.operation_id]
    assert told == [
        "InstanceRequested",
        "OperationAssigned",
        "OperationStarted",
        "OperationSucceeded",
    ]


def spawned_and_signalled(events: Sequence[object]) -> list[tuple[str, int]]:
    return [
        (type(event).__name__, event.spid)
        for event in events
        if isinstance(event, SubprocessSpawned | ProcessSignalled)
    ]


@pytest.mark.parametrize("done", [True, False])
async def test_what_clients_do_is_recorded_once_when_answers_are_lost(done: bool) -> None:
    log, clock, ids = LostAnswers(done=done), FakeClock(), FakeIds()
    context = context_at(clock, PROJECT)
    run = Operation.request_instance(context, operation_id=ids.new_id(), spec=a_spec(ids.new_id()))
    run.assign(context, worker="w", lease_until=clock.now())
    await log.append(run)
    history = OperationHistory(log=log, outages=Outages(), clock=clock, operation_id=run.id)
    assert await history.last_spid() == 1
    command = GuestCommand(
        operation_id=run.id, action=Action.SIGNAL, spid=1, actor="t", request_id="r"
    )
    spec = SubprocessSpec(command="true")
    for spid in (2, 3):
        log.lossy = {SubprocessSpawned, ProcessSignalled}
        await history.spawned(command, spid=spid, pid=9, spec=spec)
        await history.signalled(command, signal=15)
        await history.signalled(command, signal=15)
    assert spawned_and_signalled(log.events) == [
        ("SubprocessSpawned", 2),
        ("ProcessSignalled", 1),
        ("ProcessSignalled", 1),
        ("SubprocessSpawned", 3),
        ("ProcessSignalled", 1),
        ("ProcessSignalled", 1),
    ]


async def test_whoever_is_cancelled_waits_no_more() -> None:
    waiting = Outages()
    call = waiting.waited_out("it", Away(1_000_000, UnavailableError("gone")))
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert waiting.problem == "gone"
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert waiting.problem is None
