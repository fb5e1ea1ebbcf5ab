"""The Ancestry contract, on the fake and in SQL over the read models."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.event_log import EventLog
from contree.app.images.ancestry import Ancestry
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.operation import Operation
from contree.domain.project import project_id_of
from contree.projections import ALL, SqlAncestry
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeAncestry
from tests.support.histories import a_spec, context_at, digest_of

IDS = FakeIds(space=77)


@dataclass(frozen=True)
class World:
    log: EventLog
    ancestry: Ancestry
    clock: FakeClock

    async def imported(self, project: str = "alpha") -> Image:
        image = Image.imported(
            context_at(self.clock, project_id_of(project)),
            operation_id=IDS.new_id(),
            registry_url="docker://r.example/i",
            manifest_digest="sha256:m",
            config_digest=f"sha256:{IDS.new_id()}",
            layers=[digest_of("a"), digest_of("b")],
            environment=RecordedEnvironment(),
            workdir="",
            size_bytes=1,
        )
        await self.log.append(image)
        return image

    async def runs(self, image: Image, count: int) -> list[Image]:
        """Return the image and as many on it, one on the other."""
        line = [image]
        for number in range(count):
            made = line[-1].committed(
                context_at(self.clock, image.project_id),
                operation_id=IDS.new_id(),
                layer=digest_of(str(number)),
                workdir="",
                size_bytes=1,
            )
            await self.log.append(made)
            line.append(made)
        return line


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        log = FakeEventLog()
        return World(log, FakeAncestry(log), FakeClock())
    pool = request.getfixturevalue("postgres_pool")
    return World(
        PostgresEventLog(pool, ALL),
        SqlAncestry(PostgresDatabase(pool), decode=OrjsonTranscoder().decode),
        FakeClock(),
    )


async def test_a_line_goes_down_to_the_import(world: World) -> None:
    line = await world.runs(await world.imported(), 3)
    found = await world.ancestry.line(line[0].project_id, line[-1].id, limit=10)
    assert [one.image_id for one in found] == [image.id for image in reversed(line)]
    assert [one.parent_image_id for one in found] == [
        *(image.id for image in reversed(line[:-1])),
        None,
    ]
    assert [one.layers for one in found] == [tuple(i.own_layers) for i in reversed(line)]
    assert [one.operation_id for one in found] == [i.operation_id for i in reversed(line)]
    assert len(await world.ancestry.line(line[0].project_id, line[-1].id, limit=2)) == 2


async def test_a_line_of_another_project_or_of_nothing_is_empty(world: World) -> None:
    image = await world.imported()
    other = project_id_of("beta")
    assert list(await world.ancestry.line(other, image.id, limit=5)) == []
    assert list(await world.ancestry.line(image.project_id, IDS.new_id(), limit=5)) == []


async def test_branches_meet_where_they_part(world: World) -> None:
    trunk = await world.runs(await world.imported(), 200)
    ends = {}
    for at in (0, 1, 63, 64, 65, 127, 128, 150):
        for length in (0, 1, 64, 70):
            ends[at, length] = (await world.runs(trunk[at], length))[-1].id
    project = trunk[0].project_id
    for (at, length), end in ends.items():
        found = await world.ancestry.nearest_common(project, end, trunk[-1].id)
        assert found == trunk[at].id, (at, length)
        assert await world.ancestry.nearest_common(project, trunk[-1].id, end) == trunk[at].id
        for (other_at, other_length), other in ends.items():
            if at < other_at:
                found = await world.ancestry.nearest_common(project, end, other)
                assert found == trunk[at].id, (at, length, other_at, other_length)
    assert await world.ancestry.nearest_common(project, trunk[7].id, trunk[7].id) == trunk[7].id


async def test_images_of_other_imports_have_nothing_in_common(world: World) -> None:
    one, other = await world.imported(), await world.imported()
    assert await world.ancestry.nearest_common(one.project_id, one.id, other.id) is None
    assert await world.ancestry.nearest_common(one.project_id, one.id, IDS.new_id()) is None


async def test_ids_are_found_by_how_they_begin(world: World) -> None:
    image = await world.imported()
    alpha, beta = project_id_of("alpha"), project_id_of("beta")

    async def found(prefix: str, project_id: UUID | None) -> list[tuple[UUID, UUID]]:
        return list(await world.ancestry.beginning_with(prefix, project_id, limit=10))

    whole = str(image.id)
    for length in (9, 12, 24, 36):
        assert await found(whole[:length], None) == [(image.id, alpha)]
        assert await found(whole[:length], alpha) == [(image.id, alpha)]
        assert await found(whole[:length], beta) == []


async def test_who_asked_for_an_operation_is_told(world: World) -> None:
    context = context_at(world.clock, project_id_of("alpha"), actor="a-token")
    operation = Operation.request_instance(
        context, operation_id=IDS.new_id(), spec=a_spec(IDS.new_id())
    )
    await world.log.append(operation)
    found = await world.ancestry.requesters([operation.id, IDS.new_id()])
    assert found == {operation.id: "a-token"}
