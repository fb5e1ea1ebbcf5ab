"""A real store; building is a function here, so guests are not needed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contree.adapters.microvm.templates.template import Template, TemplateStore
from contree.adapters.microvm.templates.template_keeper import CLONE_FAILURES_MAX, TemplateKeeper
from contree.domain.errors import GuestFailure

FAILURE = GuestFailure("clone did not come up")


class Building:
    """Builds at once, or when told to, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.failure: Exception | None = None

    async def __call__(self, partial: Path) -> None:
        self.calls += 1
        await self.allowed.wait()
        if self.failure is not None:
            raise self.failure
        TemplateStore.ram_in(partial).write_bytes(b"ram")
        TemplateStore.state_in(partial).write_bytes(b"state")
        TemplateStore.scratch_in(partial).write_bytes(b"scratch")


@pytest.fixture
async def building() -> Building:
    return Building()


def keeper_in(directory: Path, building: Building) -> TemplateKeeper:
    kernel = directory.with_name("vmlinuz")
    kernel.write_bytes(bytes(4096))
    return TemplateKeeper(TemplateStore(directory, "key"), kernel=kernel, build=building)


async def fail(keeper: TemplateKeeper, template: Template, times: int) -> None:
    for _ in range(times):
        await keeper.failed(template, FAILURE)


async def test_the_first_template_is_waited_for_and_built_once(
    tmp_path: Path, building: Building
) -> None:
    keeper = keeper_in(tmp_path, building)
    building.allowed.clear()
    asking = [asyncio.create_task(keeper.current()) for _ in range(3)]
    await asyncio.wait(asking, timeout=0.05)
    assert not any(task.done() for task in asking)
    building.allowed.set()
    templates = await asyncio.gather(*asking)
    assert templates[0] is not None
    assert len({id(template) for template in templates}) == 1
    assert (building.calls, keeper.counts.built, keeper.counts.loaded) == (1, 1, 0)
    await keeper.aclose()


async def test_the_next_process_opens_it_without_building(
    tmp_path: Path, building: Building
) -> None:
    first = keeper_in(tmp_path, building)
    assert await first.current() is not None
    await first.aclose()
    second = keeper_in(tmp_path, building)
    assert await second.current() is not None
    assert (building.calls, second.counts.loaded) == (1, 1)
    await second.aclose()


async def test_looking_opens_what_is_there_and_does_not_wait_for_what_is_built(
    tmp_path: Path, building: Building
) -> None:
    building.allowed.clear()
    first = keeper_in(tmp_path, building)
    async with asyncio.timeout(10):
        await first.looked()
    assert first.counts.loaded == first.counts.built == 0
    building.allowed.set()
    assert await first.current() is not None
    await first.aclose()
    second = keeper_in(tmp_path, building)
    await second.looked()
    assert second.counts.loaded == 1
    await second.aclose()


@pytest.mark.parametrize("failure", [FAILURE, OSError("disk"), RuntimeError("a bug")])
async def test_when_building_fails_guests_do_without_and_it_is_not_repeated_at_once(
    tmp_path: Path, building: Building, failure: Exception
) -> None:
    keeper = keeper_in(tmp_path, building)
    building.failure = failure
    assert await keeper.current() is None
    assert await keeper.current() is None
    assert building.calls == 1
    assert list(tmp_path.iterdir()) == []
    await keeper.aclose()


async def test_a_template_whose_clones_keep_failing_is_given_up(
    tmp_path: Path, building: Building
) -> None:
    keeper = keeper_in(tmp_path, building)
    template = await keeper.current()
    assert template is not None
    await fail(keeper, template, CLONE_FAILURES_MAX - 1)
    keeper.worked()  # in between: it is not the template's fault
    await fail(keeper, template, CLONE_FAILURES_MAX - 1)
    assert await keeper.current() is template
    await fail(keeper, template, 1)
    assert not template.memory_file.exists()
    assert list(tmp_path.iterdir()) == []
    assert await keeper.current() is None  # to be made again later
    assert keeper.counts.fallbacks == 2 * CLONE_FAILURES_MAX - 1
    assert (keeper.counts.clones, keeper.counts.discarded) == (1, 1)
    await keeper.aclose()


async def test_failures_of_an_earlier_template_do_not_count_against_the_next(
    tmp_path: Path, building: Building
) -> None:
    keeper = keeper_in(tmp_path, building)
    old = await keeper.current()
    assert old is not None
    await fail(keeper, old, CLONE_FAILURES_MAX)
    keeper._not_before = 0.0  # its time has come
    assert await keeper.current() is None  # later ones are not waited for
    assert keeper._making is not None
    await asyncio.wait({keeper._making})
    new = await keeper.current()
    assert new is not None
    await fail(keeper, old, CLONE_FAILURES_MAX)
    await fail(keeper, new, 1)
    assert await keeper.current() is new
    assert building.calls == 2
    await keeper.aclose()


async def test_closing_in_the_midst_of_building_leaves_nothing(
    tmp_path: Path, building: Building
) -> None:
    keeper = keeper_in(tmp_path, building)
    building.allowed.clear()
    asking = asyncio.create_task(keeper.current())
    while building.calls == 0:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    await keeper.aclose()
    assert await asking is None
    assert list(tmp_path.iterdir()) == []
