"""Guests that do not do their part, each a real one that is broken on purpose."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from contree.adapters.microvm.disks.scratch_disk import room_bytes
from contree.adapters.microvm.hypervisor.connection import LibvirtConnection
from contree.adapters.microvm.hypervisor.qemu_process import qemu_pids
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.app.guest.microvm import GuestSpec
from contree.app.images.layer_store import FilePart
from contree.domain.errors import GuestFailure, LayerRefused, OperationFailure
from tests.support.guest_files import put_file
from tests.vm.conversation import Conversation, chunks
from tests.vm.fixtures import MIB, TEST_DEADLINES, guest_spec

pytestmark = pytest.mark.vm


def pid_of(spec: GuestSpec) -> int:
    [pid] = qemu_pids(f"guest=contree-{spec.run_id.hex},")
    return pid


def traces(short_dir: Path, spec: GuestSpec) -> list[str]:
    """Files and processes that name this guest."""
    key = spec.run_id.hex
    # Not rglob: it raises when a directory vanishes under it.
    names = [Path(top, name) for top, below, files in os.walk(short_dir) for name in below + files]
    found = [str(path) for path in names if key[:16] in path.name]
    return found + [f"qemu {pid}" for pid in qemu_pids(key)]


async def gone(short_dir: Path, spec: GuestSpec) -> None:
    """Wait, in bounds, until nothing is left of a guest; fail with what is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(120):
            while traces(short_dir, spec):  # noqa: ASYNC110 - the kernel's, and /proc's, news
                await asyncio.sleep(0.05)
    assert traces(short_dir, spec) == []


async def test_a_kernel_panic_ends_the_guest_with_its_last_words(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    spec = guest_spec(base_layer)
    async with microvm.start(spec) as guest:
        talk = Conversation(guest)
        with pytest.raises(GuestFailure, match="Kernel panic - not syncing: sysrq") as failure:
            await talk.sh("echo c > /proc/sysrq-trigger; sleep 60")
        assert not failure.value.retryable  # the command did it, and would again
        with pytest.raises(GuestFailure):
            await talk.spawn("true")
    await gone(short_dir, spec)


async def test_a_killed_qemu_is_noticed_at_once_and_may_be_tried_again(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    spec = guest_spec(base_layer)
    async with microvm.start(spec) as guest:
        talk = Conversation(guest)
        spid = await talk.spawn("sleep", "600", stdin_open=True)
        writing = asyncio.create_task(guest.write_stdin(spid, bytes(MIB)))
        await asyncio.sleep(0)
        os.kill(pid_of(spec), signal.SIGKILL)
        with pytest.raises(GuestFailure, match="QEMU was killed") as failure:
            await talk.end(spid)
        assert failure.value.retryable
        with pytest.raises(GuestFailure, match="QEMU was killed"):
            await writing
        with pytest.raises(GuestFailure):
            async for _ in guest.capture(bytes_max=MIB):
                pass
    await gone(short_dir, spec)


async def test_a_silent_guest_is_given_up_after_its_bound(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = guest_spec(base_layer)
    monkeypatch.setattr(microvm, "_deadlines", replace(TEST_DEADLINES, silence_s=6))
    async with microvm.start(spec) as guest:
        talk = Conversation(guest)
        spid = await talk.spawn("sleep", "600")
        os.kill(pid_of(spec), signal.SIGSTOP)
        with pytest.raises(GuestFailure, match="said nothing for 6 s"):
            await talk.end(spid)
    await gone(short_dir, spec)


async def test_a_guest_that_switches_itself_off_is_a_failure(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    spec = guest_spec(base_layer)
    async with microvm.start(spec) as guest:
        with pytest.raises(GuestFailure, match="QEMU ended"):
            await Conversation(guest).sh("reboot -f; sleep 60")
    await gone(short_dir, spec)


async def test_a_full_scratch_disk_is_the_command_s_and_the_file_s_problem(
    microvm: LibvirtMicroVM, base_layer: Path
) -> None:
    async with microvm.start(guest_spec(base_layer, max_layer_bytes=MIB)) as guest:
        talk = Conversation(guest)
        done = await talk.sh("df -k / | tail -1; dd if=/dev/zero of=/fill bs=64k; stat -c %s /fill")
        assert b"No space left" in done.stderr
        # The disk has 128 MiB; what it has beyond the run's room is nobody's.
        *_, available_kib, _, _ = done.text.splitlines()[0].split()
        filled = int(done.text.splitlines()[-1])
        assert 0.9 * room_bytes(MIB) < filled <= room_bytes(MIB)
        assert 0.9 * room_bytes(MIB) < int(available_kib) * 1024 <= room_bytes(MIB)
        with pytest.raises(OperationFailure, match=r"/more.*[Nn]o space"):
            await put_file(
                guest, "/more", chunks(bytes(MIB)), size_bytes=MIB, uid=0, gid=0, mode=0o644
            )
        await talk.sh("rm /fill; touch '/.wh.trick'")
        with pytest.raises(LayerRefused, match=r"\.wh\."):
            async for _ in guest.capture(bytes_max=MIB):
                pass


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1, 0.2, 0.3])
async def test_cancelling_a_start_at_any_moment_leaves_nothing(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path, after_s: float
) -> None:
    spec = guest_spec(base_layer)

    async def start() -> None:
        async with microvm.start(spec):
            await asyncio.Event().wait()

    starting = asyncio.create_task(start())
    await asyncio.sleep(after_s)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await gone(short_dir, spec)


async def test_a_layer_file_that_is_not_there_fails_the_start_and_leaves_nothing(
    microvm: LibvirtMicroVM, short_dir: Path
) -> None:
    missing = FilePart(path=short_dir / "missing.sqfs", offset_bytes=0, size_bytes=4096)
    spec = guest_spec((missing,))
    with pytest.raises(GuestFailure, match=r"missing\.sqfs"):
        async with microvm.start(spec):
            pass
    await gone(short_dir, spec)


async def test_a_damaged_layer_fails_the_command_with_the_agent_s_reason(
    microvm: LibvirtMicroVM, short_dir: Path
) -> None:
    damaged = short_dir / "damaged.sqfs"
    damaged.write_bytes(os.urandom(8192))
    spec = guest_spec(damaged)
    async with microvm.start(spec) as guest:
        with pytest.raises(GuestFailure, match="could not mount its disks") as failure:
            await Conversation(guest).sh("true")
        assert failure.value.retryable
    await gone(short_dir, spec)


async def test_libvirt_is_not_asked_about_a_guest_that_ends(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def destroy(_: LibvirtConnection, name: str) -> None:
        asked.append(name)

    monkeypatch.setattr(LibvirtConnection, "destroy", destroy)
    spec = guest_spec(base_layer)
    async with microvm.start(spec):
        pass
    await gone(short_dir, spec)
    assert asked == [], "the start of another guest would wait for the answer"


async def test_an_error_inside_the_context_ends_the_guest_too(
    microvm: LibvirtMicroVM, base_layer: Path, short_dir: Path
) -> None:
    spec = guest_spec(base_layer)
    with pytest.raises(RuntimeError, match="ours"):
        async with microvm.start(spec):
            raise RuntimeError("ours")
    await gone(short_dir, spec)
