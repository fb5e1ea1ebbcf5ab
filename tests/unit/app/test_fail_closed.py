"""No event, no effect: what the log refuses has not happened, for anybody to see."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest

from contree.app.guest.steer_instance import SubprocessOrder
from contree.app.images.request_import import ImportOrder
from contree.app.images.tag_images import TagImages
from contree.app.issue_tokens import IssueTokens
from contree.app.request_run import RunOrder
from contree.domain.aggregate import Aggregate, Event
from contree.domain.errors import ContreeError
from contree.domain.image import ImageCommitted
from contree.domain.operation import (
    OperationAssigned,
    OperationStarted,
    ProcessSignalled,
    Status,
    SubprocessSpawned,
)
from contree.domain.token import Permission, Token, TokenIssued
from contree.worker import loop
from tests.fakes.event_log import FakeEventLog
from tests.fakes.microvm import FakeProcess
from tests.unit.app.world import PROJECT, URL, World, a_caller

WAIT_S = 10
UPLOADED = b"bytes"
UPLOADED_SHA256 = hashlib.sha256(UPLOADED).hexdigest()


class RefusingLog(FakeEventLog):
    """Has no room for events of `refuse`, nor for what would be appended with them."""

    refuse: type[Event] | None = None

    async def append(self, *aggregates: Aggregate, **options: object) -> None:
        kinds = [type(event) for a in aggregates for event in a.pending_events]
        if self.refuse is not None:
            self.full = self.refuse in kinds
        await super().append(*aggregates, **options)


class Watched(World):
    """A world whose log refuses; `ran` are the commands that a guest began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.began_one: asyncio.Queue[str] = asyncio.Queue()

        async def program(process: FakeProcess) -> int:
            self.began.append(process.spec.argv[0])
            self.began_one.put_nowait(process.spec.argv[0])
            await asyncio.Event().wait()
            return 0

        self.refusing = RefusingLog()
        super().__init__({"main": program, "other": program}, log=self.refusing)

    def tags(self) -> TagImages:
        return TagImages(log=self.log, images=self.images, clock=self.clock)

    def tokens(self) -> IssueTokens:
        return IssueTokens(log=self.log, clock=self.clock, ids=self.ids)

    @property
    def token(self) -> UUID:
        """The first token."""
        return next(e.originator_id for e in self.log.events if isinstance(e, TokenIssued))

    async def is_revoked(self) -> bool:
        token = await self.log.load(Token, self.token)
        return token is not None and token.revoked


async def chunks() -> AsyncIterator[bytes]:
    yield UPLOADED


UseCase = Callable[[Watched, UUID, UUID], Awaitable[object]]
USE_CASES: dict[str, UseCase] = {
    "run": lambda w, image, _: w.runs.request(
        a_caller(), RunOrder(image=str(image), command="main")
    ),
    "import": lambda w, *_: w.imports.request(a_caller(), ImportOrder(registry_url=URL)),
    "tag": lambda w, image, _: w.tags().assign(a_caller(), image, "new"),
    "untag": lambda w, image, _: w.tags().remove(a_caller(), image, "base"),
    "cancel": lambda w, _, operation: w.cancellation.cancel(a_caller(), operation),
    "upload": lambda w, *_: w.uploads.upload(a_caller(), chunks()),
    "token": lambda w, *_: w.tokens().issue(
        project="demo", permissions=[Permission.SPAWN], expires_at=None
    ),
    "revoke": lambda w, *_: w.tokens().revoke(w.token),
}


@pytest.mark.parametrize("use_case", USE_CASES)
@pytest.mark.parametrize("failure", ["full", "available"])
async def test_a_use_case_whose_event_is_refused_has_done_nothing(
    use_case: str, failure: str
) -> None:
    world = Watched()
    async with world.working():
        image = await world.imported()
    operation, _ = await world.runs.request(a_caller(), RunOrder(image="tag:base", command="main"))
    await USE_CASES["token"](world, image, operation)
    events, leases = list(world.log.events), dict(world.log.leases)
    row = await world.row(operation)
    setattr(world.log, failure, failure == "full")
    with pytest.raises(ContreeError, match="fake database"):
        await USE_CASES[use_case](world, image, operation)
    world.log.full, world.log.available = False, True
    assert (world.log.events, world.log.leases) == (events, leases)
    assert await world.row(operation) == row
    assert await world.files.by_sha256(PROJECT, UPLOADED_SHA256) is None
    assert await world.images.by_tag(PROJECT, "new") is None
    assert await world.images.by_tag(PROJECT, "base") is not None
    assert not await world.is_revoked()
    await USE_CASES[use_case](world, image, operation)
    assert len(world.log.events) > len(events)


async def test_nothing_begins_before_it_is_assigned_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What runs goes on meanwhile, and what could not be assigned waits until the log takes it."""
    monkeypatch.setattr(loop, "POLL_S", 0.01)
    world, order = Watched(), RunOrder(image="tag:base", command="main")
    async with world.working():
        await world.imported()
        before, _ = await world.runs.request(a_caller(), order)
        async with asyncio.timeout(WAIT_S):
            await world.began_one.get()
        started = len(world.microvm.started)
        world.refusing.refuse = OperationAssigned
        operation, _ = await world.runs.request(a_caller(), order)
        async with asyncio.timeout(WAIT_S):
            await world.log.refused.get()
            await world.log.refused.get()
        assert (world.began, len(world.microvm.started)) == (["main"], started)
        assert (await world.row(operation)).status is Status.PENDING
        assert operation not in world.log.leases
        world.refusing.refuse, world.log.full = None, False
        async with asyncio.timeout(WAIT_S):
            assert await world.began_one.get() == "main"
        assert (await world.row(before)).status is Status.EXECUTING


async def test_no_command_runs_before_its_start_is_recorded() -> None:
    world = Watched()
    async with world.working():
        await world.imported()
        world.refusing.refuse = OperationStarted
        await world.runs.request(a_caller(), RunOrder(image="tag:base", command="main"))
        async with asyncio.timeout(WAIT_S):
            await world.log.refused.get()
        assert world.began == []
        assert world.microvm.started
    assert world.began == []


async def spawned(world: Watched, operation: UUID) -> None:
    await world.steering.spawn(a_caller(), operation, SubprocessOrder(command="other"))


async def signalled(world: Watched, operation: UUID) -> None:
    await world.steering.signal(a_caller(), operation, 1, 15)


@pytest.mark.parametrize(
    ("steer", "event"), [(spawned, SubprocessSpawned), (signalled, ProcessSignalled)]
)
async def test_a_run_whose_process_cannot_be_recorded_fails_and_leaves_nothing(
    steer: Callable[[Watched, UUID], Awaitable[None]], event: type[Event]
) -> None:
    """The process may have begun by then: so nothing of the run may be seen."""
    world = Watched()
    async with world.working():
        await world.imported()
        order = RunOrder(image="tag:base", command="main")
        operation, _ = await world.runs.request(a_caller(), order)
        async with asyncio.timeout(WAIT_S):
            await world.began_one.get()
            world.refusing.refuse = event
            with pytest.raises(ContreeError):
                await steer(world, operation)
            row = await world.end_of(operation)
    assert row.status is Status.FAILED
    assert "no room" in str(row.error)
    assert not any(isinstance(e, event | ImageCommitted) for e in world.log.events)
