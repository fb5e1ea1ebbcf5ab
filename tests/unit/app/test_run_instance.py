"""Runs from the order to the image they leave behind, with a worker over in-memory parts."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from contree.app.journal_lines import line_of
from contree.app.request_run import RunOrder, StdinOrder
from contree.domain import image as image_module
from contree.domain.errors import (
    InvalidFieldError,
    LimitExceededError,
    NotFoundError,
    PermissionMissingError,
    StorageFullError,
)
from contree.domain.image import Image
from contree.domain.instance import FilePlacement
from contree.domain.operation import (
    OperationRequeued,
    OperationStarted,
    OperationSucceeded,
    Status,
)
from contree.domain.token import Permission
from tests.fakes.microvm import FakeFile, FakeProcess
from tests.unit.app.world import PROJECT, World, a_caller


async def _env(process: FakeProcess) -> int:
    process.write(repr(sorted(process.spec.env.items())).encode())
    return 0


async def _where(process: FakeProcess) -> int:
    process.write(f"{process.spec.cwd} {process.spec.uid} {process.spec.gid}".encode())
    return 0


async def _lose_guest(process: FakeProcess) -> int:
    process.guest.lose("QEMU was killed")
    await asyncio.Event().wait()
    return 0


async def _talk(process: FakeProcess) -> int:
    process.write(b"up\n")
    await asyncio.Event().wait()
    return 0


async def _grow(process: FakeProcess) -> int:
    process.guest.files["/big"] = FakeFile(bytes(4096))
    return 0


PROGRAMS = {"grow": _grow, "talk": _talk, "env": _env, "where": _where, "lose-guest": _lose_guest}


async def output(world: World, row) -> str:
    return (await world.content.read_bytes(PROJECT, row.outcome["stdout"]["sha256"])).decode()


async def test_a_run_that_writes_leaves_a_new_image_with_one_more_layer() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "touch", "/new")
    assert row.status is Status.SUCCESS
    assert row.result_image_id not in {None, base}
    image = await world.log.load(Image, row.result_image_id)
    assert image is not None
    below = await world.images.stack(PROJECT, base)
    assert await world.images.stack(PROJECT, image.id) == [*below, *image.own_layers]
    assert len(image.own_layers) == 1
    assert (image.parent_image_id, image.depth) == (base, 1)
    assert row.image_size_bytes == image.size_bytes > 0


async def test_what_runs_is_the_stack_that_the_log_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "touch", "/new")
        assert row.result_image_id is not None
        below = await world.images.stack(PROJECT, base)

        async def without_the_topmost(project_id: UUID, image_id: UUID) -> Sequence[str]:
            return below

        monkeypatch.setattr(world.images, "stack", without_the_topmost)
        started = sum(isinstance(e, OperationStarted) for e in world.log.events)
        refused = await world.ran(row.result_image_id, "touch", "/new")
    assert refused.status is Status.FAILED
    assert refused.error is not None
    assert "other layers of image" in refused.error
    assert sum(isinstance(e, OperationStarted) for e in world.log.events) == started


async def test_where_one_output_is_not_stored_the_other_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(PROGRAMS)
    stored = []

    async def put_bytes(_: UUID, data: bytes) -> None:
        if data or stored:
            raise StorageFullError("no room for standard output")
        stored.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            stored.append("ended")

    async with world.working():
        base = await world.imported()
        monkeypatch.setattr(world.content, "put_bytes", put_bytes)
        row = await world.ran(base, "env")
        assert row.status is Status.FAILED
        assert "no room" in row.error
        assert stored == ["begun", "ended"]


async def test_a_run_that_writes_nothing_returns_its_source_image_whatever_the_exit_code() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "false")
    assert (row.status, row.result_image_id) == (Status.SUCCESS, base)
    assert row.outcome is not None
    assert row.outcome["exit_code"] == 1


async def test_a_disposable_run_leaves_no_image() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "touch", "/new", disposable=True)
    assert (row.status, row.result_image_id) == (Status.SUCCESS, None)


async def test_images_branch_and_a_tag_resolves_to_its_image() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        left, right = await asyncio.gather(
            world.ran("tag:base", "touch", "/left"), world.ran(base, "touch", "/right")
        )
        deeper = await world.ran(left.result_image_id, "touch", "/deeper")
    assert left.image_id == right.image_id == base
    assert len({left.result_image_id, right.result_image_id, deeper.result_image_id, base}) == 4
    row = await world.images.get(PROJECT, deeper.result_image_id)
    assert row is not None
    assert row.parent_image_id == left.result_image_id


async def test_shell_mode_inherits_the_images_environment_and_direct_mode_does_not() -> None:
    world = World(PROGRAMS | {"sh": _env})
    async with world.working():
        base = await world.imported()
        direct = await world.ran(base, "env", env={"A": "1", "LANG": None})
        shell = await world.ran(base, "ignored", shell=True, env={"A": "1", "LANG": None})
    assert "'BASE'" not in await output(world, direct)
    assert "('A', '1')" in await output(world, direct)
    assert "('BASE', '1')" in await output(world, shell)
    assert "LANG" not in await output(world, shell)
    assert "('PATH', '/usr/local/sbin" in await output(world, direct)


async def test_preserved_environment_applies_in_both_modes_and_holds_no_secret() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        kept = await world.ran(
            base, "env", env={"KEEP": "me", "MY_TOKEN": "s3cret", "LANG": ""}, preserve_env=True
        )
        assert kept.result_image_id not in {None, base}
        assert "s3cret" in await output(world, kept)  # the process itself gets it
        after = await output(world, await world.ran(kept.result_image_id, "env"))
        heir = await world.ran(kept.result_image_id, "touch", "/new")
        later = await output(world, await world.ran(heir.result_image_id, "env"))
    assert later == after, "an image inherits what the one below it stored"
    assert "('KEEP', 'me')" in after
    assert "s3cret" not in after
    assert "LANG" not in after
    assert "s3cret" not in repr([vars(event) for event in world.log.events])
    entries = [e.entry for e in await world.journal.read(kept.operation_id)]
    told = [e for e in entries if e.type != "stdout"]  # what a command prints is its own affair
    assert "s3cret" not in repr(told)
    assert next(e for e in told if e.type == "spawn").data["env"]["MY_TOKEN"] == "<MASKED>"


async def test_a_sealed_secret_is_destroyed_when_its_operation_ends() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "env", env={"API_KEY": "s3cret"})
    assert await world.log.sealed(row.operation_id) is None
    assert row.request["env"] == {"API_KEY": "<MASKED>"}
    assert row.request["env_digests"].keys() == {"API_KEY"}


async def test_what_the_request_calls_a_secret_is_one_and_is_kept_nowhere() -> None:
    world = World(PROGRAMS)
    wanted = {"env": {"PLAIN": "s3cret", "KEEP": "me"}, "secret_env": frozenset({"PLAIN"})}
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "env", **wanted, preserve_env=True)
        heir = await world.ran(row.result_image_id, "env")
    assert "('PLAIN', 's3cret')" in await output(world, row)
    assert "KEEP" in await output(world, heir)
    assert "PLAIN" not in await output(world, heir)
    assert row.request["env"]["PLAIN"] == "<MASKED>"
    assert row.request["env_digests"].keys() == {"PLAIN"}
    assert "s3cret" not in repr([vars(event) for event in world.log.events])
    entries = [e.entry for e in await world.journal.read(row.operation_id)]
    assert next(e for e in entries if e.type == "spawn").data["env"]["PLAIN"] == "<MASKED>"


async def test_the_working_directory_comes_from_request_image_or_root() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        own = await world.ran(base, "where", uid=7, gid=8)
        given = await world.ran(base, "where", cwd="/else", preserve_cwd=True)
        later = await world.ran(given.result_image_id, "where")
    assert await output(world, own) == "/work 7 8"
    assert await output(world, given) == "/else 0 0"
    assert await output(world, later) == "/else 0 0"


async def test_stdin_reaches_the_command_and_ends() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "cat", stdin=StdinOrder(data="grüße\n".encode()))
    assert await output(world, row) == "grüße\n"


async def test_files_are_placed_and_missing_ones_refused_by_name() -> None:
    world = World()

    async def chunks():
        yield b"payload"

    uploaded = await world.uploads.upload(a_caller(), chunks())
    async with world.working():
        base = await world.imported()
        placement = FilePlacement(file_id=uploaded.file_id, uid=3, mode=0o755)
        row = await world.ran(base, "echo", files={"/opt/x": placement})
        assert row.result_image_id != base
        with pytest.raises(InvalidFieldError, match=r"files\['/opt/x'\].uuid"):
            await world.ran(base, "echo", files={"/opt/x": FilePlacement(file_id=UUID(int=0))})


async def test_equal_uploads_are_one_file() -> None:
    world = World()

    async def chunks():
        yield b"same"

    first = await world.uploads.upload(a_caller(), chunks())
    world.clock.advance(10)
    second = await world.uploads.upload(a_caller(), chunks())
    assert first.file_id == second.file_id
    assert second.updated_at > first.updated_at
    with pytest.raises(PermissionMissingError):
        await world.uploads.upload(a_caller(Permission.LIST), chunks())
    world.uploads._limits = replace(world.limits, upload_bytes_max=2)
    with pytest.raises(LimitExceededError):
        await world.uploads.upload(a_caller(), chunks())


async def test_output_past_the_cap_is_dropped_and_counted() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "echo", "x" * 100, output_bytes_max=10)
    assert row.outcome is not None
    assert row.outcome["stdout"]["size_bytes"] == 10
    assert row.outcome["stdout"]["dropped_bytes"] == 91


async def test_a_timeout_is_an_outcome_and_its_image_is_kept() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "sleep", "60", timeout_s=1)
    assert row.status is Status.SUCCESS
    assert row.outcome is not None
    assert row.outcome["timed_out"] is True
    assert (row.outcome["exit_code"], row.outcome["signal"]) == (-1, 9)
    assert row.result_image_id == base


async def test_an_end_for_want_of_memory_is_told_in_the_outcome_and_in_the_event() -> None:
    async def hog(process: FakeProcess) -> int:
        process.oom_killed = True
        return 137  # as a shell's, whose child was killed

    world = World(PROGRAMS | {"hog": hog})
    async with world.working():
        base = await world.imported()
        rows = [await world.ran(base, name) for name in ("hog", "env")]
    for row, killed in zip(rows, (True, False), strict=True):
        assert row.status is Status.SUCCESS
        assert row.outcome is not None
        assert row.outcome["oom_killed"] is killed
        entries = [e.entry for e in await world.journal.read(row.operation_id)]
        assert [e.data["oom_killed"] for e in entries if e.type == "exit"] == [killed]


async def test_home_is_the_guests_to_set_unless_the_request_unsets_it() -> None:
    async def home(process: FakeProcess) -> int:
        process.write(repr((process.spec.home, process.spec.env.get("HOME"))).encode())
        return 0

    world = World({"home": home})
    async with world.working():
        base = await world.imported()
        envs: list[dict[str, str | None]] = [{}, {"HOME": "/mine"}, {"HOME": None}]
        rows = [await world.ran(base, "home", env=env) for env in envs]
        said = [await output(world, row) for row in rows]
    assert said == ["(True, None)", "(True, '/mine')", "(False, None)"]


async def test_a_command_that_cannot_be_started_fails_by_its_name() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "no-such-thing")
    assert row.status is Status.FAILED
    assert row.error is not None
    assert "no-such-thing" in row.error
    entries = await world.journal.read(row.operation_id)
    assert [e.entry.type for e in entries] == ["init", "shutdown"]


async def test_a_command_line_without_a_shell_is_told_of_it() -> None:
    world = World(PROGRAMS | {"sh": _env})
    async with world.working():
        base = await world.imported()
        errors = {
            command: (await world.ran(base, command)).error for command in ("ls -l /tmp", "ls")
        }
        assert (await world.ran(base, "ls -l /tmp", shell=True)).status is Status.SUCCESS
    assert errors == {
        "ls -l /tmp": "command 'ls -l /tmp' could not be started: ls -l /tmp: No such file or"
        " directory (shell: true runs a command line; else arguments go into args)",
        "ls": "command 'ls' could not be started: ls: No such file or directory",
    }


async def test_paths_of_files_are_made_plain_at_the_door() -> None:
    world = World()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"payload"

    uploaded = await world.uploads.upload(a_caller(), chunks())
    placement = FilePlacement(file_id=uploaded.file_id)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "echo", files={"//opt/./a//x/": placement})
        assert row.request["files"].keys() == {"/opt/a/x"}
        with pytest.raises(InvalidFieldError) as refused:
            await world.ran(base, "echo", files={"/a/b": placement, "/a//b": placement})
    assert (refused.value.field, refused.value.problem) == (
        "files['/a//b']",
        "is the same path as '/a/b'",
    )


async def test_more_written_than_allowed_fails_with_the_reason() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "grow", max_layer_bytes=4096)
    assert row.status is Status.FAILED
    assert row.error is not None
    assert "4096 bytes" in row.error


async def test_the_journal_tells_the_run_and_the_log_holds_its_digest() -> None:
    world = World()
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "echo", "hi")
    numbered = await world.journal.read(row.operation_id)
    entries = [e.entry for e in numbered]
    assert [e.type for e in entries] == ["init", "spawn", "stdout", "exit", "shutdown"]
    assert entries[2].data == {"value": "hi\n", "encoding": "ascii", "truncated": False}
    succeeded = [e for e in world.log.events if isinstance(e, OperationSucceeded)][-1]
    text = b"".join(map(line_of, numbered))
    assert succeeded.journal_sha256 == hashlib.sha256(text).hexdigest()
    started = [e for e in world.log.events if isinstance(e, OperationStarted)][-1]
    assert started.facts["network"] == "none"


async def test_the_journal_of_a_cancelled_run_says_how_it_ended() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        order = RunOrder(image=str(base), command="talk")
        operation_id, _ = await world.runs.request(a_caller(), order)
        async with asyncio.timeout(10):
            while len(await world.journal.read(operation_id)) < 3:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)
        await world.cancellation.cancel(a_caller(), operation_id)
        row = await world.end_of(operation_id)
    assert row.status is Status.CANCELLED
    entries = [e.entry for e in await world.journal.read(operation_id)]
    assert [e.type for e in entries] == ["init", "spawn", "stdout", "shutdown"]
    assert entries[-1].data["reason"] == "signal"


async def test_a_guest_lost_from_outside_is_tried_again_and_then_given_up() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "lose-guest")
    assert row.status is Status.FAILED
    assert row.error is not None
    assert "3 attempts" in row.error
    requeued = [e for e in world.log.events if isinstance(e, OperationRequeued)]
    assert ["QEMU was killed" in e.reason for e in requeued] == [True, True]
    assert world.microvm.running == []


async def test_orders_are_refused_before_anything_is_recorded() -> None:
    world = World()
    async with world.working():
        base = str(await world.imported())
    before = len(world.log.events)
    for problem, order in {
        "image": RunOrder(image="bare", command="x"),
        "command": RunOrder(image=base, command=""),
        "timeout": RunOrder(image=base, command="x", timeout_s=999_999),
        "truncate_output_at": RunOrder(image=base, command="x", output_bytes_max=2**40),
        "cwd": RunOrder(image=base, command="x", cwd="relative"),
        "env": RunOrder(image=base, command="x", env={"A=B": "c"}),
        "hostname": RunOrder(image=base, command="x", hostname="h" * 65),
        "uid": RunOrder(image=base, command="x", uid=-1),
        "max_layer_bytes": RunOrder(image=base, command="x", max_layer_bytes=2**60),
        "files": RunOrder(
            image=base, command="x", files={"../x": FilePlacement(file_id=UUID(int=1))}
        ),
    }.items():
        with pytest.raises(InvalidFieldError, match=problem):
            await world.runs.request(a_caller(), order)
    for image in (str(UUID(int=12345)), "tag:nowhere"):
        with pytest.raises(NotFoundError):
            await world.runs.request(a_caller(), RunOrder(image=image, command="x"))
    with pytest.raises(PermissionMissingError, match="spawn_disposable"):
        await world.runs.request(
            a_caller(Permission.SPAWN), RunOrder(image=base, command="x", disposable=True)
        )
    assert len(world.log.events) == before


async def test_a_run_on_an_image_at_the_depth_limit_is_refused_at_the_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_module, "DEPTH_MAX", 1)
    world = World()
    async with world.working():
        base = await world.imported()
        deepest = await world.ran(base, "touch", "/new")
        before = len(world.log.events)
        image = deepest.result_image_id
        assert image is not None
        with pytest.raises(LimitExceededError, match=r"depth: image .* has 1 runs below it"):
            await world.runs.request(a_caller(), RunOrder(image=str(image), command="touch"))
        with pytest.raises(LimitExceededError, match="depth"):
            await world.replays.request(a_caller(), deepest.operation_id, image_id=image)
        assert len(world.log.events) == before
        looked = await world.ran(image, "touch", "/gone", disposable=True)
    assert looked.status is Status.SUCCESS
    assert looked.result_image_id is None
