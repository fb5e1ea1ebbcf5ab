"""The duty that signs checkpoints: when it does, what it does not sign, and how gaps close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from contree.app.proof import checkpoints as module
from contree.app.proof.checkpoints import Checkpoints
from contree.app.proof.growth import LogAlteredError
from contree.app.proof.log_tree import TreeState
from contree.domain.errors import ConflictError, StorageFullError, UnavailableError
from contree.domain.note import VerifierKey
from tests.fakes.checkpoint_store import FakeCheckpointStore
from tests.support.proofs import ProofWorld, SeededSigner

WAIT_S = 10


class WatchedStore(FakeCheckpointStore):
    """Tells of every call of `sizes`, with which each turn begins, and of what was put."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.came: asyncio.Queue[int] = asyncio.Queue()

    async def put(self, size: int, note: bytes) -> None:
        await super().put(size, note)
        self.came.put_nowait(size)

    async def sizes(self, *, after: int = -1) -> list[int]:
        self.asked.put_nowait(None)
        return list(await super().sizes(after=after))


@pytest.fixture
async def world() -> ProofWorld:
    made = ProofWorld()
    made.store = WatchedStore()
    await made.append(20)
    return made


def store_of(world: ProofWorld) -> WatchedStore:
    assert isinstance(world.store, WatchedStore)
    return world.store


@asynccontextmanager
async def running(duty: Checkpoints) -> AsyncIterator[None]:
    """The duty runs, and is cancelled at the end as a worker does it."""
    task = asyncio.create_task(duty.run())
    try:
        async with asyncio.timeout(WAIT_S):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def count(world: ProofWorld) -> int:
    return len(world.recorded.events)


async def test_it_signs_at_once_and_again_when_there_is_more(world: ProofWorld) -> None:
    first = count(world)
    async with running(world.checkpoints(interval_s=0)):
        assert await store_of(world).came.get() == first
        await world.append(1)
        assert await store_of(world).came.get() > first
    verdict = await world.verify()
    assert (verdict.findings, verdict.covered) == ([], count(world))


async def test_within_the_interval_only_the_end_of_the_worker_signs(world: ProofWorld) -> None:
    first = count(world)
    async with running(world.checkpoints(interval_s=3600)):
        assert await store_of(world).came.get() == first
        await world.append(3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert store_of(world).came.empty()
    assert sorted(world.store.notes) == [first, count(world)]


async def test_nothing_is_signed_without_events_nor_twice() -> None:
    world = ProofWorld()
    assert await world.checkpoints().advance() is None
    await world.append(2)
    first = await world.checkpoints().advance()
    assert await world.checkpoints().advance() == first
    assert len(world.store.notes) == 1


@pytest.mark.parametrize("failure", [StorageFullError("full"), UnavailableError("away")])
async def test_a_store_that_fails_stops_nobody_and_the_gap_closes(
    world: ProofWorld, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    await world.checkpoints().advance()
    covered = count(world)
    store_of(world).asked = asyncio.Queue()
    world.store.failure = failure
    async with running(world.checkpoints(interval_s=0)):
        await store_of(world).asked.get()
        await world.append(7)
        await store_of(world).asked.get()
        uncovered = count(world) - covered
        world.store.failure = None
        verdict = await world.verify()
        assert (verdict.covered, verdict.size - verdict.covered) == (covered, uncovered)
        assert verdict.uncovered_since == world.recorded.events[covered].recorded_at
        while await store_of(world).came.get() != count(world):
            pass
    assert f"events go on without: {failure}" in caplog.text
    verdict = await world.verify()
    assert (verdict.findings, verdict.covered) == ([], count(world))
    assert verdict.uncovered_since is None


async def test_a_clock_that_goes_back_does_not_take_checkpoints_with_it(
    world: ProofWorld, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.checkpoints().advance()
    await world.append(1)
    world.clock.advance(-86400)
    second = await world.checkpoints().advance()
    assert first is not None
    assert second is not None
    assert second.checkpoint.at == first.checkpoint.at
    assert "the clock is behind" in caplog.text
    await world.append(1)
    world.clock.advance(2 * 86400)
    third = await world.checkpoints().advance()
    assert third is not None
    assert third.checkpoint.at == first.checkpoint.at + timedelta(days=1)
    assert (await world.verify()).findings == []


async def test_a_new_key_goes_on_only_from_a_former_one_that_it_knows(world: ProofWorld) -> None:
    await world.checkpoints().advance()
    await world.append(1)
    new = SeededSigner("new", name="contree/new")
    with pytest.raises(LogAlteredError, match="former key"):
        await world.checkpoints(signer=new).advance()
    former: list[VerifierKey] = [world.signer.key]
    made = await world.checkpoints(signer=new, former_keys=former).advance()
    assert made is not None
    assert made.key == new.key
    assert len(world.store.notes) == 2


async def test_of_two_at_once_one_goes_on_and_the_other_takes_it_up(world: ProofWorld) -> None:
    one, other = world.checkpoints(), world.checkpoints()
    assert await one.advance_in_turn() == await other.advance_in_turn()
    for _ in range(5):
        await world.append(3)
        world.clock.advance(1)
        results = await asyncio.gather(one.advance_in_turn(), other.advance_in_turn())
        assert results[0] == results[1]
    verdict = await world.verify()
    assert (verdict.findings, verdict.checkpoint_count) == ([], 6)


async def test_one_that_was_first_with_another_time_counts(world: ProofWorld) -> None:
    """Both have grown the tree, and each signs at its own time: one note stays."""
    first = await world.checkpoints().advance()
    assert first is not None
    world.tree.notes.clear()
    size = first.checkpoint.size

    class Blind(FakeCheckpointStore):
        """Lists nothing, as before the other one put its own."""

        async def sizes(self, *, after: int = -1) -> list[int]:  # noqa: ARG002 - the Protocol's
            return []

    blind = Blind()
    blind.notes = world.store.notes
    world.store = blind
    world.clock.advance(60)
    assert await world.checkpoints().advance() == first
    assert world.tree.notes == {size: first.note}


async def test_killed_between_the_tree_and_the_checkpoint(
    world: ProofWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree has grown, nothing is signed: the next one signs it."""

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> bytes:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "signed", killed)
        with pytest.raises(KilledError):
            await world.checkpoints().advance()
    assert (await world.tree.state()).size == count(world)
    assert world.store.notes == {}
    assert await world.checkpoints().advance() is not None
    assert (await world.verify()).covered == count(world)


async def test_killed_between_the_store_and_the_copy(world: ProofWorld) -> None:
    first = await world.checkpoints().advance()
    assert first is not None
    world.tree.notes.clear()
    assert await world.checkpoints().advance() == first
    assert world.tree.notes == {first.checkpoint.size: first.note}


async def test_killed_before_the_tree_has_grown(
    world: ProofWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conflict(**_: object) -> None:
        raise ConflictError("another process has gone on with the log's tree")

    with monkeypatch.context() as patch:
        patch.setattr(world.tree, "append", conflict)
        with pytest.raises(ConflictError):
            await world.checkpoints().advance()
    assert await world.tree.state() == TreeState(size=0, position=0, hash=b"")
    assert world.store.notes == {}
    assert await world.checkpoints().advance() is not None


async def test_a_changed_log_is_not_signed(world: ProofWorld) -> None:
    await world.checkpoints().advance()
    await world.append(1)
    last = world.recorded.events[-1]
    world.recorded.events[-1] = replace(last, topic=last.topic + "2")
    with pytest.raises(LogAlteredError, match=f"position {last.position} does not follow"):
        await world.checkpoints().advance()
    with pytest.raises(LogAlteredError, match=f"position {last.position} does not follow"):
        await world.checkpoints().advance_in_turn()
    assert len(world.store.notes) == 1
