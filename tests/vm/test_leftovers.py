"""What a worker that was killed leaves, and the next one clears; both are real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from contree.adapters.microvm.boot.assets import GuestAssets
from contree.adapters.microvm.hypervisor.qemu_process import qemu_pids
from contree.adapters.microvm.runner import LibvirtMicroVM
from contree.domain.errors import GuestFailure
from tests.vm.fixtures import ROOT

pytestmark = pytest.mark.vm


async def worker(what: str, directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.vm.crashing_worker", what, str(directory),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=None,
    )  # fmt: skip


async def said(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(300):
        return (await process.stdout.readline()).decode().split()


async def killed_worker(directory: Path, what: str) -> int:
    """Start a worker with a guest, kill it, and return the pid of the QEMU that it left."""
    process = await worker(what, directory)
    try:
        state, pid = await said(process)
        assert state == "up"
        return int(pid)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("what", "stopped"),
    [("start", False), ("start", True), ("wait", False)],
    ids=["running", "stopped", "waiting for a run"],
)
async def test_a_killed_worker_s_guest_is_ended_and_its_files_are_removed(
    guest_assets: GuestAssets, short_dir: Path, what: str, stopped: bool
) -> None:
    qemu = await killed_worker(short_dir, what)
    assert qemu_pids(f"{short_dir}/crash/vm/") == [qemu]  # it outlives its worker
    assert list(short_dir.glob("cache/scratch/live-*/*.img"))
    if stopped:  # would never answer a libvirt that reconnects to it
        os.kill(qemu, signal.SIGSTOP)
    sweeper = await worker("sweep", short_dir)
    assert await said(sweeper) == ["swept", "1"]
    assert await sweeper.wait() == 0
    assert qemu_pids(f"{short_dir}/crash/vm/") == []
    assert not (short_dir / "crash").exists()


async def test_a_runtime_directory_in_use_is_refused(
    microvm: LibvirtMicroVM, guest_assets: GuestAssets, short_dir: Path
) -> None:
    with pytest.raises(GuestFailure, match="in use by another process"):
        await LibvirtMicroVM.open(
            uri=None,
            runtime_dir=short_dir / "run",
            cache_dir=short_dir / "cache",
            assets=guest_assets,
            accelerator="tcg",
        )


async def test_a_runtime_directory_too_deep_for_sockets_is_refused(
    guest_assets: GuestAssets, short_dir: Path
) -> None:
    with pytest.raises(GuestFailure, match="choose a shorter one"):
        await LibvirtMicroVM.open(
            uri=None,
            runtime_dir=short_dir / ("x" * 80),
            cache_dir=short_dir / "cache",
            assets=guest_assets,
            accelerator="tcg",
        )
