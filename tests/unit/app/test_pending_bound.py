"""How many operations of a project may wait: all ways to ask for one are refused beyond that."""

from __future__ import annotations

import pytest

from contree.app.images.request_import import ImportOrder
from contree.app.request_run import RunOrder
from contree.domain.errors import QueueFullError
from tests.fakes.clock import FakeIds
from tests.unit.app.test_run_instance import PROGRAMS
from tests.unit.app.world import PENDING_MAX, URL, World, a_caller


async def test_what_is_asked_for_beyond_the_bound_is_refused_and_not_recorded() -> None:
    world = World(PROGRAMS)
    async with world.working():
        image = await world.imported()
        ended = await world.ran(image, "env")
    order = RunOrder(image=str(image), command="env")
    asked = [(await world.runs.request(a_caller(), order))[0] for _ in range(PENDING_MAX)]
    recorded = len(world.log.events)
    message = f"{PENDING_MAX} operations of this project wait already"
    with pytest.raises(QueueFullError, match=message):
        await world.runs.request(a_caller(), order)
    with pytest.raises(QueueFullError, match=message):
        await world.imports.request(a_caller(), ImportOrder(registry_url=URL))
    with pytest.raises(QueueFullError, match=message):
        await world.replays.request(a_caller(), ended.operation_id)
    assert len(world.log.events) == recorded
    stranger = a_caller(project_id=FakeIds().new_id())
    await world.imports.request(stranger, ImportOrder(registry_url=URL))
    await world.cancellation.cancel(a_caller(), asked[0])
    await world.runs.request(a_caller(), order)
