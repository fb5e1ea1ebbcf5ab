"""Processes that are called as QEMU is, though they only sleep."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.adapters.microvm.hypervisor.qemu_process import (
    ProcessState,
    QemuProcess,
    adopt_orphans,
    kill_qemus,
    processes,
    qemu_pids,
    reap_adopted,
)

MARK = "guest=contree-unit-test,"
WAIT_S = 30


def begun(directory: Path, *, stdin: int) -> subprocess.Popen[bytes]:
    """Start what is called as QEMU is, and wait until its program runs.

    Popen returns when the kernel has closed our end, a little before it shows the new command line.
    """
    shell = directory / "qemu-system-sh"
    shutil.copy("/bin/sh", shell)
    process = subprocess.Popen(
        [shell, "-c", "echo; read x", MARK], stdin=stdin, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose name and command line are those of a guest's QEMU."""
    with begun(tmp_path, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


async def test_a_qemu_is_found_by_its_command_line_and_its_end_is_seen(
    qemu: subprocess.Popen[bytes],
) -> None:
    found = QemuProcess.find(MARK)
    assert found is not None
    assert found.pid == qemu.pid
    ended: list[bool] = []
    found.on_exit = lambda: ended.append(found.killed)
    found.kill()
    async with asyncio.timeout(WAIT_S):
        await found.exited.wait()
    assert ended == [True]
    found.kill()  # nothing happens
    assert QemuProcess.find(MARK) is None


async def test_a_qemu_is_the_first_to_die_for_want_of_memory_and_leaves_no_core(
    qemu: subprocess.Popen[bytes],
) -> None:
    found = QemuProcess.find(MARK)
    assert found is not None
    found.restrain()
    assert Path(f"/proc/{qemu.pid}/oom_score_adj").read_text() == "900\n"
    assert resource.prlimit(qemu.pid, resource.RLIMIT_CORE) == (0, 0)
    found.kill()
    async with asyncio.timeout(WAIT_S):
        await found.exited.wait()
    found.restrain()  # nothing happens


@pytest.mark.parametrize("recorded", ["its own", "another's", "nonsense", ""])
async def test_a_pid_file_saves_the_search_and_cannot_mislead_it(
    qemu: subprocess.Popen[bytes], tmp_path: Path, recorded: str
) -> None:
    text = {"its own": str(qemu.pid), "another's": str(os.getpid())}.get(recorded, recorded)
    (tmp_path / "pid").write_text(text)
    found = QemuProcess.find(MARK, pid_file=tmp_path / "pid")
    assert found is not None
    assert found.pid == qemu.pid
    found.close()


async def test_a_killed_qemu_does_not_hang_up_before_it_is_reaped(tmp_path: Path) -> None:
    ours, its = socket.socketpair()
    with ours:
        with its:
            process = begun(tmp_path, stdin=its.fileno())
        found = QemuProcess.find(MARK)
        assert found is not None
        found.kill()
        # The loop must not turn: it would reap it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - as said
        assert select.select([ours], [], [], 0)[0] == []
        async with asyncio.timeout(WAIT_S):
            await found.exited.wait()
        assert found.killed
        assert ours.recv(1) == b""
    with process:
        pass


async def test_a_qemu_that_ends_by_itself_was_not_killed(qemu: subprocess.Popen[bytes]) -> None:
    found = QemuProcess.find(MARK)
    assert found is not None
    assert qemu.stdin is not None
    qemu.stdin.write(b"\n")
    qemu.stdin.flush()
    async with asyncio.timeout(WAIT_S):
        await found.exited.wait()
    assert not found.killed


def test_only_marked_qemus_are_killed(qemu: subprocess.Popen[bytes]) -> None:
    assert qemu_pids(MARK) == [qemu.pid]
    assert kill_qemus("guest=contree-other,") == 0
    assert qemu.poll() is None
    assert kill_qemus(MARK) == 1
    assert qemu.wait() == -9


def test_a_process_that_only_mentions_a_guest_is_no_qemu() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", MARK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert qemu_pids(MARK) == []
    finally:
        process.communicate(b"\n")


def dead_orphans() -> list[ProcessState]:
    """Ours: beside us, there may be another run of this test."""
    ours = (p for p in processes() if p.parent_pid == os.getpid())
    return [p for p in ours if p.comm == "qemu-system-orp" and p.state == "Z"]


def test_orphaned_qemus_are_adopted_and_reaped(tmp_path: Path) -> None:
    adopt_orphans()
    reap_adopted()  # what earlier tests of this process left
    program = tmp_path / "qemu-system-orphan"
    shutil.copy("/bin/sleep", program)
    # A daemon as libvirt makes them: its own session, its parent gone.
    subprocess.run(["setsid", "-f", program, "0.1"], check=True)
    until = time.monotonic() + WAIT_S
    while not (dead := dead_orphans()) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(dead) == 1
    assert reap_adopted() == 1
    assert dead_orphans() == []
