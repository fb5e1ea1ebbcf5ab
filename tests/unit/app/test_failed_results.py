"""A failure after the command has begun: the operation says why, and keeps what the command did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from contree.app.reads import OperationRow
from contree.domain.errors import (
    ContentErasedError,
    ContreeError,
    GuestFailure,
    LayerRefused,
    StorageFullError,
    UnavailableError,
)
from contree.domain.operation import OperationFailed, Status
from contree.domain.outcome import CapturedStream, ProcessOutcome
from tests.fakes.clock import EPOCH
from tests.fakes.microvm import FakeFile, FakeProcess
from tests.unit.app.world import PROJECT, World

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
WRITTEN = b"worked\n"


async def _work(process: FakeProcess) -> int:
    process.write(WRITTEN)
    process.guest.files["/done"] = FakeFile(b"x")
    return 3


async def _lose_guest(process: FakeProcess) -> int:
    process.write(WRITTEN)
    process.guest.lose("QEMU was killed")
    await asyncio.Event().wait()
    return 0


PROGRAMS = {"work": _work, "lose-guest": _lose_guest}


def outcome_of(row: OperationRow) -> ProcessOutcome:
    assert row.outcome is not None
    return ProcessOutcome.from_fact(row.outcome)


async def journal_is_recorded(world: World, row: OperationRow) -> bool:
    """Whether the end names the journal, and that ends as it should."""
    ends = [e for e in world.log.events if isinstance(e, OperationFailed)]
    assert [e.originator_id for e in ends] == [row.operation_id]
    entries = [e.entry for e in await world.journal.read(row.operation_id)]
    assert [e.type for e in entries] == ["init", "spawn", "stdout", "exit", "shutdown"]
    return len(ends[0].journal_sha256 or "") == 64


@pytest.mark.parametrize(
    "failure",
    [
        LayerRefused("what the command wrote cannot be kept: './.wh.a' is reserved"),
        GuestFailure("its capture stood still for 60 s"),
    ],
    ids=lambda failure: failure.code,
)
async def test_a_delta_that_cannot_be_kept_leaves_the_outcome(
    monkeypatch: pytest.MonkeyPatch, failure: ContreeError
) -> None:
    world = World(PROGRAMS)

    async def add_delta(tar: AsyncIterator[bytes], **_: object) -> None:
        async for _ in tar:
            raise failure

    async with world.working():
        base = await world.imported()
        monkeypatch.setattr(world.layers, "add_delta", add_delta)
        row = await world.ran(base, "work")
    assert (row.status, row.error, row.result_image_id) == (Status.FAILED, str(failure), None)
    outcome = outcome_of(row)
    assert (outcome.exit_code, outcome.signal, outcome.timed_out) == (3, -1, False)
    assert outcome.stdout.size_bytes == len(WRITTEN)
    assert await world.content.read_bytes(PROJECT, outcome.stdout.sha256) == WRITTEN
    assert await journal_is_recorded(world, row)


@pytest.mark.parametrize(
    "failure",
    [StorageFullError("no room for output"), ContentErasedError(EPOCH)],
    ids=lambda failure: failure.code,
)
async def test_output_that_there_is_no_place_for_is_all_that_is_lost(
    monkeypatch: pytest.MonkeyPatch, failure: ContreeError
) -> None:
    world = World(PROGRAMS)

    refused = LayerRefused("what the command wrote cannot be kept")

    async def put_bytes(*_: object) -> None:
        raise failure

    async def add_delta(*_: object, **__: object) -> None:
        raise refused

    async with world.working():
        base = await world.imported()
        monkeypatch.setattr(world.content, "put_bytes", put_bytes)
        monkeypatch.setattr(world.layers, "add_delta", add_delta)
        row = await world.ran(base, "work")
    assert (row.status, row.error) == (Status.FAILED, str(refused))
    outcome = outcome_of(row)
    assert outcome.exit_code == 3
    assert outcome.stdout == CapturedStream(
        sha256=NOTHING, size_bytes=0, dropped_bytes=len(WRITTEN)
    )
    assert outcome.stderr == CapturedStream(sha256=NOTHING, size_bytes=0)
    assert await journal_is_recorded(world, row)


async def test_the_last_of_the_lost_attempts_leaves_what_its_command_wrote() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "lose-guest")
    assert row.status is Status.FAILED
    assert row.error == "gave up after 3 attempts: the guest was lost: QEMU was killed"
    outcome = outcome_of(row)
    assert (outcome.exit_code, outcome.signal, outcome.timed_out) == (-1, -1, False)
    assert await world.content.read_bytes(PROJECT, outcome.stdout.sha256) == WRITTEN


async def test_an_attempt_that_was_handed_back_is_none_of_the_lost_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = 0

    async def lose_all_but_the_first(process: FakeProcess) -> int:
        nonlocal ran
        ran += 1
        return await (_work if ran == 1 else _lose_guest)(process)

    async def add_delta(*_: object, **__: object) -> None:
        raise UnavailableError("the store is away")

    world = World({"lose-later": lose_all_but_the_first})
    async with world.working():
        base = await world.imported()
        monkeypatch.setattr(world.layers, "add_delta", add_delta)
        row = await world.ran(base, "lose-later")
    assert (row.status, ran) == (Status.FAILED, 4)
    outcome = outcome_of(row)
    assert (outcome.exit_code, outcome.signal) == (-1, -1)
    assert await world.content.read_bytes(PROJECT, outcome.stdout.sha256) == WRITTEN


async def test_a_command_that_was_never_started_has_no_outcome() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "no-such-thing")
    assert (row.status, row.outcome) == (Status.FAILED, None)
