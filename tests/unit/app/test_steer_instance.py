"""Processes started, fed and signalled from outside, with a worker over in-memory parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from contree.app import operation_journal
from contree.app.guest import control_server, steer_instance
from contree.app.guest.microvm import Output, Stream
from contree.app.guest.steer_instance import SubprocessOrder
from contree.app.journal import JournalEntry
from contree.app.request_run import RunOrder, StdinOrder
from contree.domain.errors import (
    InstanceEndedError,
    InvalidFieldError,
    InvalidTransitionError,
    NotFoundError,
    PermissionMissingError,
    TooEarlyError,
)
from contree.domain.operation import (
    ImportRequested,
    OperationRequeued,
    ProcessSignalled,
    Status,
    SubprocessSpawned,
)
from contree.domain.token import Permission
from tests.fakes.microvm import FakeProcess
from tests.unit.app.world import PROJECT, World, a_caller

OPEN = StdinOrder(data=b"", close=False)
WAIT_S = 10


async def _show(process: FakeProcess) -> int:
    process.write(f"{process.spec.cwd} {sorted(process.spec.env.items())}".encode())
    return 0


async def _deaf(_: FakeProcess) -> int:
    await asyncio.Event().wait()
    return 0


async def _flood(process: FakeProcess) -> int:
    data = b"x" * (process.spec.output_bytes_max + 1)
    process.guest.emit(Output(spid=process.spid, stream=Stream.STDERR, data=data))
    await asyncio.Event().wait()
    return 0


async def _impostor(process: FakeProcess) -> int:
    process.guest.emit(Output(spid=77, stream=Stream.STDOUT, data=b"who am I"))
    await asyncio.Event().wait()
    return 0


PROGRAMS = {"show": _show, "deaf": _deaf, "flood": _flood, "impostor": _impostor, "sh": _show}


async def eventually(look: Callable[[], Awaitable[Any]], *, wanted: Callable[[Any], object]) -> Any:
    """Return what `look` gives as soon as it is as wanted."""
    async with asyncio.timeout(WAIT_S):
        while not wanted(found := await look()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
    return found


async def journal_of(
    world: World, operation_id: UUID, spid: int | None = None
) -> list[JournalEntry]:
    return [n.entry for n in await world.journal.read(operation_id, spid=spid)]


async def started(world: World, base: UUID, command: str, *args: str, **order: Any) -> UUID:
    """Start a run and wait until its journal shows the command."""
    wanted = RunOrder(image=str(base), command=command, args=args, **order)
    operation_id, _ = await world.runs.request(a_caller(), wanted)
    await eventually(
        lambda: journal_of(world, operation_id, 1), wanted=lambda entries: len(entries) > 0
    )
    return operation_id


async def exit_of(world: World, operation_id: UUID, spid: int) -> JournalEntry:
    entries = await eventually(
        lambda: journal_of(world, operation_id, spid),
        wanted=lambda found: found and found[-1].type == "exit",
    )
    return entries[-1]


async def text_of(world: World, operation_id: UUID, spid: int, stream: str = "stdout") -> str:
    entries = await journal_of(world, operation_id, spid)
    return "".join(e.data["value"] for e in entries if e.type == stream)


async def spawn(world: World, operation_id: UUID, command: str, *args: str, **order: Any) -> int:
    wanted = SubprocessOrder(command=command, args=args, **order)
    return await world.steering.spawn(a_caller(), operation_id, wanted)


async def stop(world: World, operation_id: UUID) -> None:
    await world.steering.signal(a_caller(), operation_id, 1, 9)
    await world.end_of(operation_id)


async def test_a_subprocess_gets_the_instances_environment_and_its_own_on_top() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf", env={"A": "1", "B": "2"}, cwd="/here")
        assert await spawn(world, run, "show", env={"B": None, "C": "3"}) == 2
        assert await spawn(world, run, "show", cwd="/there", shell=True) == 3
        await exit_of(world, run, 2)
        await exit_of(world, run, 3)
        await stop(world, run)
    shown = await text_of(world, run, 2)
    assert shown.startswith("/here ")
    assert "('A', '1'), ('C', '3'), ('HOSTNAME', 'linuxkit'), ('PATH'" in shown
    shell = await text_of(world, run, 3)
    assert shell.startswith("/there ")
    assert "('BASE', '1')" in shell  # shell mode has the imported ENV


async def test_what_clients_do_is_in_the_log_in_their_name_and_without_secrets() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        stdin = StdinOrder(data=b"s3cret input")
        env = {"MY_TOKEN": "s3cret", "PLAIN": "s3cret"}
        secret = frozenset({"PLAIN"})
        await spawn(world, run, "show", env=env, secret_env=secret, stdin=stdin)
        await exit_of(world, run, 2)
        await stop(world, run)
    assert "('MY_TOKEN', 's3cret')" in await text_of(world, run, 2)
    [spawned] = [e for e in world.log.events if isinstance(e, SubprocessSpawned)]
    [signalled] = [e for e in world.log.events if isinstance(e, ProcessSignalled)]
    assert spawned.actor == signalled.actor == a_caller().actor
    assert (spawned.request_id, spawned.project_id) == ("r", PROJECT)
    assert (spawned.spid, spawned.spec["command"]) == (2, "show")
    assert spawned.spec["env"] == {"MY_TOKEN": "<MASKED>", "PLAIN": "<MASKED>"}
    assert spawned.spec["env_digests"].keys() == {"MY_TOKEN", "PLAIN"}
    assert (signalled.spid, signalled.signal) == (1, 9)
    assert "s3cret" not in repr([vars(event) for event in world.log.events])
    [shown] = [e for e in await journal_of(world, run, 2) if e.type == "spawn"]
    assert shown.data["env"]["MY_TOKEN"] == shown.data["env"]["PLAIN"] == "<MASKED>"


async def test_the_main_command_is_fed_while_it_runs_after_its_initial_input() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "cat", stdin=StdinOrder(data=b"a", close=False))
        for piece in (b"b", b"c" * 100, b""):
            await world.steering.write_stdin(a_caller(), run, 1, piece, close=False)
        await world.steering.write_stdin(a_caller(), run, 1, b"d", close=True)
        # Closed, or ended by that already.
        with pytest.raises((InvalidTransitionError, NotFoundError, InstanceEndedError)):
            await world.steering.write_stdin(a_caller(), run, 1, b"e", close=False)
        row = await world.end_of(run)
    assert row.status is Status.SUCCESS
    assert await text_of(world, run, 1) == "ab" + "c" * 100 + "d"
    assert await text_of(world, run, 1, "stdin") == "ab" + "c" * 100 + "d"


async def test_input_that_ends_the_command_is_answered_as_done_every_time() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        for _ in range(20):
            run = await started(world, base, "cat", stdin=OPEN)
            await world.steering.write_stdin(a_caller(), run, 1, b"last", close=True)
            assert (await world.end_of(run)).status is Status.SUCCESS


async def test_what_is_left_when_the_command_ends_is_killed_and_the_journal_shows_it() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        for _ in range(2):
            await spawn(world, run, "deaf")
        await stop(world, run)
        row = await world.row(run)
    assert row.status is Status.SUCCESS
    entries = await journal_of(world, run)
    exits = {e.spid: e.data["signal"] for e in entries if e.type == "exit"}
    assert exits == {1: 9, 2: 9, 3: 9}
    assert entries[-1].type == "shutdown"


async def test_a_process_that_does_not_read_holds_up_its_own_writers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_server, "STDIN_PATIENCE_S", 0.05)
    monkeypatch.setattr(steer_instance, "STDIN_WAIT_S", 0.3)
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf", stdin=OPEN)
        writes = [
            asyncio.create_task(world.steering.write_stdin(a_caller(), run, 1, b"x", close=False))
            for _ in range(20)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        refused = [type(r) for r in results if r is not None]
        # The guest's window and one piece are taken, then no more.
        assert results[0] is None
        assert refused == [TooEarlyError] * len(refused)
        assert len(refused) >= 10
        assert await spawn(world, run, "echo", "still served") == 2
        await exit_of(world, run, 2)
        await stop(world, run)
    assert await text_of(world, run, 2) == "still served\n"


async def test_numbers_are_never_used_again_also_after_an_attempt_that_was_lost() -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        assert await spawn(world, run, "echo") == 2
        with pytest.raises(InvalidFieldError, match="No such file"):
            await spawn(world, run, "no-such-program")
        assert await spawn(world, run, "echo") == 4
        world.microvm.running[0].lose("QEMU was killed")
        await eventually(lambda: journal_of(world, run, 4), wanted=lambda entries: not entries)
        await eventually(lambda: journal_of(world, run, 1), wanted=lambda entries: entries)
        assert await spawn(world, run, "echo") == 5
        await stop(world, run)
    assert any(isinstance(event, OperationRequeued) for event in world.log.events)


@pytest.mark.parametrize(
    ("command", "reason"), [("flood", "more output than"), ("impostor", "process 77")]
)
async def test_a_guest_that_breaks_its_bounds_fails_its_operation_and_nothing_else(
    command: str, reason: str
) -> None:
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        await spawn(world, run, command)
        row = await world.end_of(run)
        after = await world.ran(base, "echo", "the worker lives")
    assert row.status is Status.FAILED
    assert row.error is not None
    assert reason in row.error
    assert after.status is Status.SUCCESS
    assert not world.microvm.running


async def test_a_journal_that_is_full_says_so_once_and_still_shows_starts_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operation_journal, "ENTRY_COST_BYTES", 3)
    monkeypatch.setattr(operation_journal, "JOURNAL_BYTES_MAX", 16)
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        for _ in range(4):
            await exit_of(world, run, await spawn(world, run, "echo", "1234"))
        await stop(world, run)
    entries = await journal_of(world, run)
    assert [e.type for e in entries if e.spid in {2, 3, 4, 5}] == (
        ["spawn", "stdout", "exit"] * 2 + ["spawn", "exit"] * 2
    )
    [full] = [e for e in entries if e.type == "size_cap"]
    assert (full.spid, full.data) == (0, {"limit_bytes": 16, "file_size": 16})


async def test_clients_may_do_a_bounded_number_of_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "SUBPROCESSES_MAX", 1)
    monkeypatch.setattr(control_server, "SIGNALS_MAX", 1)
    world = World(PROGRAMS)
    async with world.working():
        base = await world.imported()
        run = await started(world, base, "deaf")
        await spawn(world, run, "deaf")
        with pytest.raises(InvalidTransitionError, match="1 subprocesses"):
            await spawn(world, run, "echo")
        await world.steering.signal(a_caller(), run, 2, 9)
        await exit_of(world, run, 2)
        with pytest.raises(InvalidTransitionError, match="1 signals"):
            await world.steering.signal(a_caller(), run, 1, 9)
        await world.cancellation.cancel(a_caller(), run)
        assert (await world.end_of(run)).status is Status.CANCELLED


async def test_only_a_running_instance_of_the_project_can_be_steered_with_its_permission() -> None:
    world = World(PROGRAMS)
    steering, order = world.steering, SubprocessOrder(command="echo")
    async with world.working():
        base = await world.imported()
        done = (await world.ran(base, "echo")).operation_id
        run = await started(world, base, "deaf", disposable=True)
        with pytest.raises(PermissionMissingError):
            await steering.spawn(a_caller(Permission.SPAWN, Permission.LIST), run, order)
        assert await steering.spawn(a_caller(Permission.SPAWN_DISPOSABLE), run, order) == 2
        for spid in (2, 99):
            await eventually(
                lambda: journal_of(world, run, 2), wanted=lambda e: e[-1].type == "exit"
            )
            with pytest.raises(NotFoundError, match="live process"):
                await steering.signal(a_caller(), run, spid, 15)
            with pytest.raises(NotFoundError, match="live process"):
                await steering.write_stdin(a_caller(), run, spid, b"x", close=True)
        with pytest.raises(InvalidTransitionError, match="closed"):
            await steering.write_stdin(a_caller(), run, 1, b"x", close=True)
        with pytest.raises(NotFoundError):
            await steering.spawn(a_caller(), UUID(int=4711), order)
        imports = [e.originator_id for e in world.log.events if isinstance(e, ImportRequested)]
        with pytest.raises(InvalidTransitionError, match="import"):
            await steering.spawn(a_caller(), imports[0], order)
        with pytest.raises(InvalidTransitionError):
            await steering.spawn(a_caller(), done, order)
        with pytest.raises(InvalidTransitionError):
            await steering.signal(a_caller(), done, 1, 9)
        with pytest.raises(InstanceEndedError):
            await steering.write_stdin(a_caller(), done, 1, b"x", close=True)
        await stop(world, run)
    pending, _ = await world.runs.request(a_caller(), RunOrder(image=str(base), command="echo"))
    with pytest.raises(TooEarlyError):
        await steering.spawn(a_caller(), pending, order)
