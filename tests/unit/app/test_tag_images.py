"""Tags and cancellation on the in-memory log, racing clients included."""

from uuid import UUID

import pytest

from contree.app.access import Caller
from contree.app.cancel_operation import CancelOperation
from contree.app.conclude import Conclude
from contree.app.images.tag_images import TagImages
from contree.app.outages import Outages
from contree.app.reads import TokenRow
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    PermissionMissingError,
)
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.instance import InstanceSpec
from contree.domain.operation import Operation, OperationCancelled, Status
from contree.domain.tag import TagMoved, TagRemoved
from contree.domain.token import Permission
from tests.fakes.clock import EPOCH, FakeClock, FakeIds
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeImageReads

PROJECT, OTHER_PROJECT = UUID(int=1), UUID(int=2)


def a_caller(project_id: UUID = PROJECT, *permissions: Permission) -> Caller:
    token = TokenRow(
        token_id=UUID(int=99),
        project_id=project_id,
        project_name=f"project-{project_id.int}",
        permissions=frozenset(p.value for p in permissions or tuple(Permission)),
        created_at=EPOCH,
        expires_at=None,
        revoked_at=None,
    )
    return Caller(token=token, request_id="r")


async def an_image(log: FakeEventLog, digest: str, project_id: UUID = PROJECT) -> UUID:
    image = Image.imported(
        a_caller(project_id).context(EPOCH),
        operation_id=UUID(int=5),
        registry_url="docker://example/x:1",
        manifest_digest=digest,
        config_digest=digest,
        layers=[digest],
        environment=RecordedEnvironment(),
        workdir="",
        size_bytes=1,
    )
    await log.append(image)
    return image.id


def tagging(log: FakeEventLog) -> TagImages:
    return TagImages(log=log, images=FakeImageReads(log), clock=FakeClock())


async def test_a_tag_moves_and_other_tags_stay() -> None:
    log = FakeEventLog()
    first, second = await an_image(log, "a"), await an_image(log, "b")
    tags = tagging(log)
    await tags.assign(a_caller(), first, "app:latest")
    await tags.assign(a_caller(), first, "app:v1")
    row = await tags.assign(a_caller(), second, "app:latest")
    assert (row.image_id, row.tag) == (second, "app:latest")
    reads = FakeImageReads(log)
    assert await reads.tags_of(PROJECT, first) == ["app:v1"]
    moved = [e for e in log.events if isinstance(e, TagMoved)]
    assert [(m.previous_image_id, m.image_id) for m in moved] == [(first, second)]


async def test_assigning_the_same_image_again_records_nothing() -> None:
    log = FakeEventLog()
    image = await an_image(log, "a")
    tags = tagging(log)
    await tags.assign(a_caller(), image, "x")
    before = len(log.events)
    await tags.assign(a_caller(), image, "x")
    assert len(log.events) == before


async def test_removing_names_one_tag_or_all_and_never_another_images() -> None:
    log = FakeEventLog()
    first, second = await an_image(log, "a"), await an_image(log, "b")
    tags = tagging(log)
    for name in ("one", "two", "three"):
        await tags.assign(a_caller(), first, name)
    await tags.remove(a_caller(), second, "one")  # not its tag: no error, no event
    assert not [e for e in log.events if isinstance(e, TagRemoved)]
    await tags.remove(a_caller(), first, "one")
    assert sorted(await FakeImageReads(log).tags_of(PROJECT, first)) == ["three", "two"]
    await tags.remove(a_caller(), first, None)
    assert await FakeImageReads(log).tags_of(PROJECT, first) == []
    row = await tags.assign(a_caller(), second, "one")  # a removed name can be used again
    assert row.image_id == second


@pytest.mark.parametrize("tag", ["", ":x", "a:", "a//b", "a b", "a@sha256:b", "x" * 257, "-a"])
async def test_bad_tags_are_refused_by_name(tag: str) -> None:
    log = FakeEventLog()
    image = await an_image(log, "a")
    with pytest.raises(InvalidFieldError, match="tag"):
        await tagging(log).assign(a_caller(), image, tag)


@pytest.mark.parametrize("tag", ["common/python-ml/python:3.11-slim", "it/0af3", "A_b-c.d", "x"])
async def test_the_tag_grammar_takes_what_the_clients_send(tag: str) -> None:
    log = FakeEventLog()
    image = await an_image(log, "a")
    assert (await tagging(log).assign(a_caller(), image, tag)).tag == tag


async def test_images_of_other_projects_do_not_exist_here() -> None:
    log = FakeEventLog()
    foreign = await an_image(log, "a", OTHER_PROJECT)
    with pytest.raises(NotFoundError):
        await tagging(log).assign(a_caller(), foreign, "x")
    with pytest.raises(NotFoundError):
        await tagging(log).remove(a_caller(), foreign, None)


async def test_tagging_needs_its_permission() -> None:
    log = FakeEventLog()
    image = await an_image(log, "a")
    with pytest.raises(PermissionMissingError):
        await tagging(log).assign(a_caller(PROJECT, Permission.LIST), image, "x")


def an_operation(project_id: UUID = PROJECT) -> Operation:
    spec = InstanceSpec(image_id=UUID(int=3), command="true", timeout_s=5)
    return Operation.request_instance(
        a_caller(project_id).context(EPOCH), operation_id=UUID(int=40), spec=spec
    )


async def status(log: FakeEventLog) -> Status:
    operation = await log.load(Operation, UUID(int=40))
    assert operation is not None
    return operation.status


async def test_a_pending_operation_is_cancelled_at_once() -> None:
    log = FakeEventLog()
    await log.append(an_operation())
    cancel = CancelOperation(log=log, clock=FakeClock())
    await cancel.cancel(a_caller(), UUID(int=40))
    assert await status(log) is Status.CANCELLED
    with pytest.raises(InvalidTransitionError):
        await cancel.cancel(a_caller(), UUID(int=40))


async def test_another_projects_operation_cannot_be_cancelled() -> None:
    log = FakeEventLog()
    await log.append(an_operation(OTHER_PROJECT))
    with pytest.raises(NotFoundError):
        await CancelOperation(log=log, clock=FakeClock()).cancel(a_caller(), UUID(int=40))


def concluding(log: FakeEventLog) -> Conclude:
    return Conclude(log=log, outages=Outages(), clock=FakeClock(), ids=FakeIds(), actor="worker:w")


async def test_a_wish_to_cancel_wins_over_a_result_that_comes_later() -> None:
    log = FakeEventLog()
    operation = an_operation()
    operation.assign(a_caller().context(EPOCH), worker="w", lease_until=EPOCH)
    await log.append(operation)
    await CancelOperation(log=log, clock=FakeClock()).cancel(a_caller(), UUID(int=40))
    assert await status(log) is Status.ASSIGNED
    conclude = concluding(log)
    assert await conclude.fail(operation, "too late") is Status.CANCELLED
    assert isinstance(log.events[-1], OperationCancelled)


async def test_an_attempt_that_was_taken_over_cannot_end_the_operation() -> None:
    log = FakeEventLog()
    context = a_caller().context(EPOCH)
    stale = an_operation()
    stale.assign(context, worker="w", lease_until=EPOCH)
    await log.append(stale)
    conclude = concluding(log)
    await conclude.lose(stale.id, "lease ran out")
    fresh = await log.load(Operation, stale.id)
    assert fresh is not None
    fresh.assign(context, worker="w", lease_until=EPOCH)
    await log.append(fresh)
    assert await conclude.fail(stale, "from the old attempt") is Status.ASSIGNED


async def test_an_operation_that_loses_every_machine_is_given_up_with_the_reason() -> None:
    log = FakeEventLog()
    context = a_caller().context(EPOCH)
    await log.append(an_operation())
    conclude = concluding(log)
    seen = []
    for _ in range(3):
        operation = await log.load(Operation, UUID(int=40))
        assert operation is not None
        operation.assign(context, worker="w", lease_until=EPOCH)
        await log.append(operation)
        seen.append(await conclude.lose(UUID(int=40), "QEMU was killed"))
    assert seen == [Status.PENDING, Status.PENDING, Status.FAILED]
    assert "3 attempts: QEMU was killed" in vars(log.events[-1])["error"]
