"""Replays: what is run again, what is refused, and what the comparison says."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from contree.app.access import Operator
from contree.app.reads import OperationRow
from contree.app.request_run import RunOrder
from contree.cli.replay import lines_of
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    PermissionMissingError,
)
from contree.domain.instance import FilePlacement
from contree.domain.operation import InstanceRequested
from contree.domain.replay_report import ReplayReport, Verdict
from contree.domain.text_difference import Cause
from contree.domain.token import Permission
from tests.fakes.microvm import FakeFile, FakeProcess
from tests.unit.app.world import PROJECT, World, a_caller

OPERATOR = Operator(project_id=PROJECT, request_id="r")


def a_world() -> World:
    counter = itertools.count()

    async def count(process: FakeProcess) -> int:
        process.write(f"this is run number {next(counter)}\n".encode())
        return 0

    async def stamp(process: FakeProcess) -> int:
        n = next(counter)
        process.write(f"at 2026-11-24T20:00:{n:02}Z\n".encode())
        process.guest.files["/stamp"] = FakeFile(f"same\n10:00:{n:02} same\n".encode())
        return 0

    async def write(process: FakeProcess) -> int:
        _, path, text = process.spec.argv
        process.guest.files[path] = FakeFile(text.encode())
        return 0

    async def flip(process: FakeProcess) -> int:
        return next(counter) % 2

    async def environment(process: FakeProcess) -> int:
        process.write(repr(sorted(process.spec.env.items())).encode())
        return 0

    async def hog(process: FakeProcess) -> int:
        process.oom_killed = next(counter) == 0
        return 0

    programs = {"count": count, "stamp": stamp, "write": write, "flip": flip, "env": environment}
    return World(programs | {"hog": hog})


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def replayed(world: World, original: OperationRow, **more: object) -> ReplayReport:
    return await world.chain.one(OPERATOR, original.operation_id, **more)


async def test_a_run_that_does_the_same_again_is_equal() -> None:
    world = a_world()
    async with world.working():
        base = await world.imported()
        original = await world.ran(base, "write", "/a", "text")
        report = await replayed(world, original)
    assert (report.verdict, report.differing) == (Verdict.EQUAL, [])
    assert report.original_id == original.operation_id
    replay = await world.row(report.replay_id)
    assert (replay.replay_of, replay.request) == (original.operation_id, original.request)
    assert replay.image_id == original.image_id
    assert report.filesystem.equal_count > 0
    assert report.filesystem.is_equal
    assert report.resources[0].usage is not None


async def test_a_difference_in_the_output_is_shown_where_it_is() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "count")
        report = await replayed(world, original)
    assert (report.verdict, report.differing) == (Verdict.DIFFERENT, ["stdout"])
    found = report.stdout.first_difference
    assert found is not None
    assert (found.line, found.original) == (1, b"this is run number 0")
    assert found.replay == b"this is run number 1"


async def test_memory_that_ran_out_once_is_a_difference_also_at_the_same_exit_code() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "hog")
        report = await replayed(world, original)
    assert (report.verdict, report.differing) == (Verdict.DIFFERENT, ["end"])
    assert [end.oom_killed for end in report.ended] == [True, False]
    assert "  end         exit 0, out of memory | exit 0" in lines_of(report)


async def test_what_the_clock_explains_is_named_and_not_hidden() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "stamp")
        report = await replayed(world, original)
    assert report.verdict is Verdict.EXPLAINED
    assert report.differing == ["stdout", "filesystem"]
    assert report.causes == {Cause.CLOCK}
    (file,) = report.filesystem.differences
    assert (file.path, list(file.fields)) == ("/stamp", ["content"])
    assert file.first_difference is not None
    assert file.first_difference.line == 2


async def test_another_exit_code_comes_first() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "flip")
        report = await replayed(world, original)
    assert (report.verdict, report.differing) == (Verdict.DIFFERENT, ["end"])
    assert [ended.exit_code for ended in report.ended] == [0, 1]


async def test_a_command_that_could_not_be_run_is_replayed_too() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "no-such-command")
        report = await replayed(world, original)
    assert report.verdict is Verdict.EQUAL
    assert report.ended[0].error == report.ended[1].error


async def test_a_disposable_run_has_no_filesystem_to_compare() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(await world.imported(), "stamp", disposable=True)
        report = await replayed(world, original)
    assert report.filesystem.not_compared is not None
    assert report.differing == ["stdout"]


async def test_secrets_are_given_again_and_must_be_the_same() -> None:
    world = a_world()
    async with world.working():
        original = await world.ran(
            await world.imported(), "env", env={"A_TOKEN": "s3cret", "PLAIN": "p"}
        )
        with pytest.raises(InvalidFieldError, match="A_TOKEN had secret values") as missing:
            await replayed(world, original)
        assert missing.value.field == "env"
        with pytest.raises(InvalidFieldError, match="not the value that the run had"):
            await replayed(world, original, secrets={"A_TOKEN": "other"})
        with pytest.raises(InvalidFieldError, match="no secret of this run"):
            await replayed(world, original, secrets={"A_TOKEN": "s3cret", "PLAIN": "p"})
        report = await replayed(world, original, secrets={"A_TOKEN": "s3cret"})
    assert report.verdict is Verdict.EQUAL


async def test_what_cannot_be_replayed_is_refused_with_the_reason() -> None:
    world = a_world()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "echo")
        imported = next(e for e in world.log.events if type(e).__name__ == "ImportRequested")
        with pytest.raises(InvalidTransitionError, match="an import"):
            await world.replays.request(OPERATOR, imported.originator_id)
        with pytest.raises(NotFoundError):
            await world.replays.request(OPERATOR, UUID(int=5))
        stranger = Operator(project_id=UUID(int=77), request_id="r")
        with pytest.raises(NotFoundError):
            await world.replays.request(stranger, row.operation_id)
        with pytest.raises(PermissionMissingError, match="spawn"):
            await world.replays.request(a_caller(Permission.LIST), row.operation_id)
        with pytest.raises(InvalidTransitionError, match="no replay"):
            await world.comparison.compare(PROJECT, row.operation_id)
    waiting, _ = await world.runs.request(a_caller(), RunOrder(image=str(base), command="echo"))
    with pytest.raises(InvalidTransitionError, match="PENDING"):
        await world.replays.request(OPERATOR, waiting)


async def test_a_file_that_is_no_longer_kept_is_named() -> None:
    world = a_world()
    async with world.working():
        base = await world.imported()
        uploaded = await world.uploads.upload(a_caller(), _chunks(b"data"))
        files = {"/in": FilePlacement(file_id=uploaded.file_id)}
        original = await world.ran(base, "echo", files=files)
        await world.content.clear(PROJECT)
        before = len(world.log.events)
        with pytest.raises(InvalidFieldError, match="no longer kept"):
            await replayed(world, original)
    assert len(world.log.events) == before


async def test_a_chain_is_replayed_step_by_step_on_what_the_replay_left() -> None:
    world = a_world()
    async with world.working():
        base = await world.imported()
        one = await world.ran(base, "write", "/a", "1")
        two = await world.ran(one.result_image_id, "stamp")
        three = await world.ran(two.result_image_id, "write", "/b", "2")
        assert three.result_image_id is not None
        found = [
            report
            async for report in world.chain.chain(
                OPERATOR, from_image=base, to_image=three.result_image_id
            )
        ]
        originals = [report.original_id for report in found]
        assert originals == [one.operation_id, two.operation_id, three.operation_id]
        verdicts = [report.verdict for report in found]
        assert verdicts == [Verdict.EQUAL, Verdict.EXPLAINED, Verdict.EQUAL]
        requested = [e for e in world.log.events if isinstance(e, InstanceRequested)][-3:]
        rows = [await world.row(report.replay_id) for report in found]
        assert [row.image_id for row in rows[1:]] == [row.result_image_id for row in rows[:-1]]
        assert [e.replay_of for e in requested] == originals
        with pytest.raises(InvalidFieldError, match="does not descend"):
            await world.chain.steps(PROJECT, from_image=three.result_image_id, to_image=base)
