"""The EventLog contract, on the fake and on PostgreSQL: each test gets an empty log of either."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.app.event_log import EVENT_BYTES_MAX, EventLog
from contree.domain.errors import ConflictError, EventTooLargeError, InvalidFieldError
from contree.domain.image import Image
from contree.domain.operation import Operation, Status
from contree.domain.tag import Tag, tag_id_of
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.support.histories import History, a_spec, context_at

IDS = FakeIds(space=1)
PROJECT = IDS.new_id()
CONTEXT = context_at(FakeClock(), PROJECT)
LEASE = EPOCH + timedelta(seconds=60)


@pytest.fixture(params=["fake", pytest.param("postgres", marks=pytest.mark.postgres)])
def log(request: pytest.FixtureRequest) -> EventLog:
    if request.param == "fake":
        return FakeEventLog()
    return PostgresEventLog(request.getfixturevalue("postgres_pool"), ALL)


def a_run() -> Operation:
    spec = a_spec(IDS.new_id())
    return Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)


async def loaded(log: EventLog, operation_id: UUID) -> Operation:
    operation = await log.load(Operation, operation_id)
    assert operation is not None
    return operation


async def test_what_was_appended_is_loaded_equal(log: EventLog) -> None:
    history = History(7)
    for touched in history.steps(120):
        await log.append(*touched)
    for aggregate in history.aggregates.values():
        assert await log.load(type(aggregate), aggregate.id) == aggregate


async def test_an_unknown_id_loads_as_none(log: EventLog) -> None:
    assert await log.load(Operation, IDS.new_id()) is None


async def test_an_id_of_another_aggregate_class_loads_as_none(log: EventLog) -> None:
    run = a_run()
    await log.append(run)
    assert await log.load(Image, run.id) is None


async def test_the_second_of_two_writers_conflicts_and_changes_nothing(log: EventLog) -> None:
    run = a_run()
    await log.append(run)
    first, second = await loaded(log, run.id), await loaded(log, run.id)
    other = a_run()
    first.assign(CONTEXT, worker="first", lease_until=LEASE)
    second.assign(CONTEXT, worker="second", lease_until=LEASE)
    await log.append(first)
    with pytest.raises(ConflictError):
        await log.append(other, second)
    assert await log.load(Operation, other.id) is None
    assert (await loaded(log, run.id)).worker == "first"


async def test_two_creations_of_one_id_conflict(log: EventLog) -> None:
    image_id = IDS.new_id()
    await log.append(Tag.assign(CONTEXT, name="one", image_id=image_id))
    with pytest.raises(ConflictError):
        await log.append(Tag.assign(CONTEXT, name="one", image_id=image_id))


async def test_pending_events_are_gone_after_a_conflict(log: EventLog) -> None:
    await log.append(Tag.assign(CONTEXT, name="one", image_id=PROJECT))
    again = Tag.assign(CONTEXT, name="one", image_id=PROJECT)
    with pytest.raises(ConflictError):
        await log.append(again)
    assert not again.pending_events


async def test_several_events_of_one_aggregate_append_at_once(log: EventLog) -> None:
    run = a_run()
    run.assign(CONTEXT, worker="w", lease_until=LEASE)
    run.start(CONTEXT)
    run.fail(CONTEXT, error="gave up")
    await log.append(run)
    assert await loaded(log, run.id) == run


async def test_a_tag_may_be_moved_and_removed_in_one_append(log: EventLog) -> None:
    tag = Tag.assign(CONTEXT, name="base", image_id=IDS.new_id())
    tag.remove(CONTEXT)
    tag.move(CONTEXT, image_id=IDS.new_id())
    await log.append(tag)
    assert await log.load(Tag, tag_id_of(PROJECT, "base")) == tag


async def test_appending_nothing_does_nothing(log: EventLog) -> None:
    run = a_run()
    await log.append(run)
    await log.append(run)
    await log.append()
    assert (await loaded(log, run.id)).version == 1


async def test_a_sealed_secret_lives_until_its_operation_ends(log: EventLog) -> None:
    run = a_run()
    await log.append(run, seal={run.id: b"\x00sealed\xff"})
    assert await log.sealed(run.id) == b"\x00sealed\xff"
    run.assign(CONTEXT, worker="w", lease_until=LEASE)
    await log.append(run)
    assert await log.sealed(run.id) == b"\x00sealed\xff"
    run.lose(CONTEXT, reason="power cut")
    await log.append(run)
    assert await log.sealed(run.id) == b"\x00sealed\xff"
    run.cancel(CONTEXT)
    assert run.status is Status.CANCELLED
    await log.append(run)
    assert await log.sealed(run.id) is None


async def test_a_secret_is_not_sealed_when_the_append_conflicts(log: EventLog) -> None:
    await log.append(Tag.assign(CONTEXT, name="one", image_id=PROJECT))
    run = a_run()
    again = Tag.assign(CONTEXT, name="one", image_id=PROJECT)
    with pytest.raises(ConflictError):
        await log.append(run, again, seal={run.id: b"sealed"})
    assert await log.sealed(run.id) is None


async def test_an_operation_without_a_secret_has_none(log: EventLog) -> None:
    assert await log.sealed(IDS.new_id()) is None


@pytest.mark.postgres
async def test_a_mapping_that_reads_as_an_encoded_value_is_refused(
    postgres_pool: object,
) -> None:
    """Stored, it could never be decoded again: the library would take it for a UUID."""
    log = PostgresEventLog(postgres_pool, ALL)
    spec = a_spec(IDS.new_id(), env={"_type_": "uuid_hex", "_data_": "no"})
    run = Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)
    with pytest.raises(InvalidFieldError, match="env"):
        await log.append(run)
    assert await log.load(Operation, run.id) is None


async def test_an_event_that_is_too_large_is_refused_with_all_that_comes_with_it(
    log: EventLog,
) -> None:
    fits = a_spec(IDS.new_id(), args=("x" * (EVENT_BYTES_MAX - 2000),))
    await log.append(
        Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=fits),
    )
    large = a_spec(IDS.new_id(), args=("x" * EVENT_BYTES_MAX,))
    run, other = (
        Operation.request_instance(CONTEXT, operation_id=IDS.new_id(), spec=spec)
        for spec in (large, fits)
    )
    with pytest.raises(EventTooLargeError, match="instance_requested"):
        await log.append(other, run)
    assert await log.load(Operation, run.id) is None
    assert await log.load(Operation, other.id) is None
