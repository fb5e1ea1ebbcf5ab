"""The text of app.guest.microvm, asked of the fake and of real guests; commands are busybox's, in
direct mode, so that the fake can have them too. Tests that need no capture share one guest.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contree.app.guest.microvm import MicroVM, SpawnRefused, Stream
from contree.domain.errors import LayerRefused, NotFoundError, OperationFailure
from tests.fakes.microvm import FakeMicroVM
from tests.support.guest_files import put_file
from tests.vm.conversation import Conversation, chunks
from tests.vm.fixtures import MIB, guest_spec

KINDS = ["fake", pytest.param("libvirt", marks=pytest.mark.vm)]


@pytest.fixture(params=KINDS, scope="module")
def machine(request: pytest.FixtureRequest) -> MicroVM:
    if request.param == "fake":
        return FakeMicroVM()
    real: MicroVM = request.getfixturevalue("microvm")
    return real


@pytest.fixture(scope="module")
def layers(request: pytest.FixtureRequest, machine: MicroVM) -> tuple[Path, ...]:
    if isinstance(machine, FakeMicroVM):
        return ()
    return (request.getfixturevalue("base_layer"),)


@pytest.fixture(scope="module")
async def shared(machine: MicroVM, layers: tuple[Path, ...]) -> AsyncIterator[Conversation]:
    async with machine.start(guest_spec(*layers)) as guest:
        yield Conversation(guest)


def members(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {m.name: m for m in archive.getmembers()}


async def test_output_comes_before_the_exit_that_ends_it(shared: Conversation) -> None:
    done = await shared.end(await shared.spawn("echo", "one", "two"))
    assert (done.stdout, done.code, done.after_exit) == (b"one two\n", 0, 0)
    assert done.exited is not None
    assert done.exited.signal == -1
    assert not done.exited.timed_out


async def test_a_running_guest_holds_memory_of_the_host(
    machine: MicroVM, shared: Conversation
) -> None:
    assert machine.memory_bytes() > MIB


async def test_a_command_that_fails_is_data(shared: Conversation) -> None:
    assert (await shared.end(await shared.spawn("false"))).code == 1


async def test_a_command_that_is_not_there_is_refused_as_shells_do(shared: Conversation) -> None:
    with pytest.raises(SpawnRefused, match="no-such-command") as refused:
        await shared.spawn("no-such-command")
    assert refused.value.exit_code == 127


async def test_stdin_is_passed_on_until_it_is_closed(shared: Conversation) -> None:
    spid = await shared.spawn("cat", stdin_open=True)
    await shared.guest.write_stdin(spid, b"first ")
    assert await shared.output(spid, 6) == b"first "
    await shared.guest.write_stdin(spid, b"second")
    await shared.guest.close_stdin(spid)
    assert (await shared.end(spid)).stdout == b"first second"


async def test_without_stdin_a_command_reads_nothing(shared: Conversation) -> None:
    done = await shared.end(await shared.spawn("cat"))
    assert (done.stdout, done.code) == (b"", 0)


async def test_what_is_not_alive_cannot_be_spoken_to(shared: Conversation) -> None:
    spid = await shared.spawn("echo", "gone")
    await shared.end(spid)
    for ended in (spid, 4242):
        with pytest.raises(NotFoundError):
            await shared.guest.write_stdin(ended, b"x")
        with pytest.raises(NotFoundError):
            await shared.guest.close_stdin(ended)
        with pytest.raises(NotFoundError):
            await shared.guest.signal(ended, 15)


async def test_writing_after_closing_stdin_is_refused(shared: Conversation) -> None:
    spid = await shared.spawn("sleep", "60", stdin_open=True)
    await shared.guest.close_stdin(spid)
    with pytest.raises(NotFoundError):
        await shared.guest.write_stdin(spid, b"late")
    await shared.guest.signal(spid, 9)
    await shared.end(spid)


async def test_a_signal_is_told_apart_from_an_exit_code(shared: Conversation) -> None:
    spid = await shared.spawn("sleep", "60")
    await shared.guest.signal(spid, 15)
    exited = (await shared.end(spid)).exited
    assert exited is not None
    assert (exited.exit_code, exited.signal, exited.timed_out) == (-1, 15, False)


async def test_a_timeout_kills_and_says_so(shared: Conversation) -> None:
    exited = (await shared.end(await shared.spawn("sleep", "60", timeout_ms=200))).exited
    assert exited is not None
    assert (exited.exit_code, exited.signal, exited.timed_out) == (-1, 9, True)
    assert exited.duration_us >= 200_000


async def test_output_over_its_cap_is_dropped_and_counted(shared: Conversation) -> None:
    spid = await shared.spawn("yes", output_bytes_max=1000)
    await shared.output(spid, 1000)
    await shared.guest.signal(spid, 9)
    done = await shared.end(spid)
    assert len(done.stdout) == 1000
    [truncated] = done.truncated
    assert (truncated.stream, truncated.emitted_bytes) == (Stream.STDOUT, 1000)
    assert truncated.dropped_bytes > 0


async def test_output_within_its_cap_is_not_called_truncated(shared: Conversation) -> None:
    done = await shared.end(await shared.spawn("echo", "1234567", output_bytes_max=8))
    assert (done.stdout, done.truncated) == (b"1234567\n", [])


async def test_a_file_is_refused_where_a_directory_stands(shared: Conversation) -> None:
    with pytest.raises(OperationFailure, match="/etc"):
        await put_file(shared.guest, "/etc", chunks(b"x"), size_bytes=1, uid=0, gid=0, mode=0o644)


async def test_a_file_that_is_not_of_its_size_is_refused(shared: Conversation) -> None:
    with pytest.raises(OperationFailure, match="5 bytes"):
        await put_file(
            shared.guest, "/short", chunks(b"four"), size_bytes=5, uid=0, gid=0, mode=0o644
        )


async def test_capture_kills_what_runs_and_yields_what_was_written(
    machine: MicroVM, layers: tuple[Path, ...]
) -> None:
    async with machine.start(guest_spec(*layers)) as guest:
        talk = Conversation(guest)
        await put_file(
            guest, "/etc/given", chunks(b"con", b"tent"), size_bytes=7, uid=7, gid=8, mode=0o640
        )
        await talk.end(await talk.spawn("touch", "/made"))
        running = await talk.spawn("sleep", "60")
        tar = b"".join([chunk async for chunk in guest.capture(bytes_max=1024**2)])
        killed = (await talk.end(running)).exited
    await talk.pump
    assert killed is not None
    assert (killed.exit_code, killed.signal) == (-1, 9)
    assert talk.failure is None
    found = members(tar)
    given = found["etc/given"]
    assert (given.size, given.uid, given.gid, given.mode) == (7, 7, 8, 0o640)
    assert found["made"].size == 0
    assert next(iter(found)) == "."


async def test_a_guest_that_wrote_nothing_yields_its_root_alone(
    machine: MicroVM, layers: tuple[Path, ...]
) -> None:
    async with machine.start(guest_spec(*layers)) as guest:
        talk = Conversation(guest)
        await talk.end(await talk.spawn("echo", "quiet"))
        tar = b"".join([chunk async for chunk in guest.capture(bytes_max=1024**2)])
    assert list(members(tar)) == ["."]


async def test_a_capture_over_its_bound_is_refused(
    machine: MicroVM, layers: tuple[Path, ...]
) -> None:
    async with machine.start(guest_spec(*layers)) as guest:
        big = b"x" * 65536
        await put_file(guest, "/big", chunks(big), size_bytes=65536, uid=0, gid=0, mode=0o644)
        with pytest.raises(LayerRefused):
            async for _ in guest.capture(bytes_max=60_000):
                pass


async def test_there_is_nothing_to_sweep_beside_live_guests(
    machine: MicroVM, shared: Conversation
) -> None:
    assert await machine.sweep() == 0
    assert (await shared.end(await shared.spawn("echo", "alive"))).code == 0
