"""What is measured out of the log, on fakes: the real use case, a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app import measure_log
from contree.app.measure_log import MeasureLog
from contree.domain.operation import Kind, Operation, Status
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeOperationReads
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import a_spec, an_outcome, context_at

IDS = FakeIds()
PROJECT = IDS.new_id()
WAIT_S = 30
RUN = Kind.INSTANCE


class Notes:
    """LogMeter that writes down what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.measured: list[tuple[object, ...]] = []
        self.topics: asyncio.Queue[str] = asyncio.Queue()

    def event(self, topic: str) -> None:
        self.topics.put_nowait(topic)

    def guest(self, *, origin: str, accelerator: str) -> None:
        self.measured.append(("guest", origin, accelerator))

    def queued(self, kind: Kind, seconds: float) -> None:
        self.measured.append(("queued", kind, seconds))

    def prepared(self, kind: Kind, seconds: float) -> None:
        self.measured.append(("prepared", kind, seconds))

    def worked(self, kind: Kind, seconds: float) -> None:
        self.measured.append(("worked", kind, seconds))

    def requeued(self, kind: Kind, *, counted: bool) -> None:
        self.measured.append(("lost" if counted else "handed back", kind))

    def ended(self, kind: Kind, status: Status, seconds: float) -> None:
        self.measured.append(("ended", kind, status, seconds))


class Measured:
    """A log that is followed, and the notes of it."""

    def __init__(self, log: FakeEventLog, notes: Notes) -> None:
        self.log = log
        self.notes = notes
        self.clock = FakeClock()

    def request(self) -> Operation:
        return Operation.request_instance(
            context_at(self.clock, PROJECT), operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
        )

    async def assigned(self, run: Operation) -> None:
        run.assign(context_at(self.clock, PROJECT), worker="w", lease_until=EPOCH)
        await self.log.append(run)

    async def started(self, run: Operation) -> None:
        run.start(context_at(self.clock, PROJECT), origin="template", accelerator="tcg")
        await self.log.append(run)

    async def ended(self, run: Operation) -> None:
        run.succeed(
            context_at(self.clock, PROJECT),
            result_image_id=None,
            image_size_bytes=None,
            outcome=an_outcome(),
            journal_sha256=None,
        )
        await self.log.append(run)

    async def seen(self, count: int) -> list[str]:
        """Wait for `count` events to have been measured; return the last words of their topics."""
        async with asyncio.timeout(WAIT_S):
            return [(await self.notes.topics.get()).rpartition(".")[2] for _ in range(count)]


@asynccontextmanager
async def measuring(log: FakeEventLog) -> AsyncIterator[Measured]:
    notes = Notes()
    measure = MeasureLog(
        recorded=FakeRecordedLog(log),
        operations=FakeOperationReads(log),
        decode=OrjsonTranscoder().decode,
        meter=notes,
    )
    following = asyncio.create_task(measure.run())
    await asyncio.sleep(0)  # it has asked where the log ends
    try:
        yield Measured(log, notes)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_runs_phases_add_up() -> None:
    async with measuring(FakeEventLog()) as measured:
        run = measured.request()
        await measured.log.append(run)
        measured.clock.advance(1)
        await measured.assigned(run)
        measured.clock.advance(2)
        await measured.started(run)
        measured.clock.advance(4)
        await measured.ended(run)
        assert await measured.seen(4) == ["instance_requested", "assigned", "started", "succeeded"]
        assert measured.notes.measured == [
            ("queued", RUN, 1),
            ("prepared", RUN, 2),
            ("guest", "template", "tcg"),
            ("worked", RUN, 4),
            ("ended", RUN, Status.SUCCESS, 7),
        ]


@pytest.mark.parametrize(("counted", "noted"), [(True, "lost"), (False, "handed back")])
async def test_an_attempt_that_is_over_is_counted_and_waits_anew(counted: bool, noted: str) -> None:
    async with measuring(FakeEventLog()) as measured:
        run = measured.request()
        await measured.log.append(run)
        await measured.assigned(run)
        await measured.started(run)
        measured.clock.advance(8)
        run.lose(context_at(measured.clock, PROJECT), reason="of the test", counted=counted)
        await measured.log.append(run)
        measured.clock.advance(16)
        await measured.assigned(run)
        await measured.seen(5)
        assert measured.notes.measured[-2:] == [(noted, RUN), ("queued", RUN, 16)]


async def test_the_end_of_an_operation_that_began_unseen_is_counted() -> None:
    log = FakeEventLog()
    before = Measured(log, Notes())
    run = before.request()
    await log.append(run)
    await before.assigned(run)
    async with measuring(log) as measured:
        measured.clock.advance(32)
        await measured.started(run)
        measured.clock.advance(1)
        await measured.ended(run)
        assert await measured.seen(2) == ["started", "succeeded"]
        assert measured.notes.measured == [
            ("guest", "template", "tcg"),
            ("worked", RUN, 1),
            ("ended", RUN, Status.SUCCESS, 33),
        ]


async def test_clocks_that_disagree_never_give_less_than_nothing() -> None:
    async with measuring(FakeEventLog()) as measured:
        run = measured.request()
        await measured.log.append(run)
        measured.clock.advance(-5)
        await measured.assigned(run)
        await measured.seen(2)
        assert measured.notes.measured == [("queued", RUN, 0)]


async def test_a_database_that_was_away_costs_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_log, "AGAIN_S", 0.01)
    log = FakeEventLog()
    async with measuring(log) as measured:
        first, second = measured.request(), measured.request()
        await log.append(first)
        assert await measured.seen(1) == ["instance_requested"]
        log.available = False
        async with log.grown:
            log.grown.notify_all()
        await asyncio.sleep(0.03)  # it has found the database away, more than once
        log.available = True
        await log.append(second)
        assert await measured.seen(1) == ["instance_requested"]
        assert measured.notes.topics.empty()
