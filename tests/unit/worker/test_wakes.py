"""Which wake-ups make a worker look at the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from contree.app.work_queue import Look, Wake
from contree.domain.operation import Kind
from contree.worker.room import FixedAdmission
from tests.fakes.work_queue import EVERYTHING, FakeWorkQueue
from tests.unit.app.world import World

CAME_IN = Wake(waiting=frozenset([Kind.INSTANCE]), unwanted=False)
UNWANTED = Wake(waiting=frozenset(), unwanted=True)


class Announced(FakeWorkQueue):
    """Wakes when a test says so, and counts who looks."""

    def __init__(self, world: World) -> None:
        super().__init__(world.log, world.clock)
        self.wakes: asyncio.Queue[Wake] = asyncio.Queue()
        self.looks = 0

    async def wakeups(self, **_: object) -> AsyncIterator[Wake]:
        while True:
            yield await self.wakes.get()

    async def look(self, *, worker: str) -> Look:
        self.looks += 1
        return await super().look(worker=worker)


@pytest.mark.parametrize(("most", "looks"), [(0, 1), (1, 4)])
async def test_who_has_no_room_does_not_look_for_what_comes_in(most: int, looks: int) -> None:
    world = World(admission=FixedAdmission(most=most, setting="here"))
    world.queue = queue = Announced(world)

    async def announce(wake: Wake) -> None:
        queue.wakes.put_nowait(wake)
        for _ in range(50):  # all that the worker does about it: nothing here waits for anything
            await asyncio.sleep(0)

    async with world.working():
        await announce(EVERYTHING)
        for _ in range(3):
            await announce(CAME_IN)
        assert queue.looks == looks
        await announce(UNWANTED)
        assert queue.looks == looks + 1
