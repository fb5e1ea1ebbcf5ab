"""Who ends a guest does not wait until it is gone; whoever closes the whole does.

A machine here is only what its owner asks of one: guests of a real QEMU are in tests/vm.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from contree.adapters.microvm.hypervisor.runtime_dir import RuntimeDir
from contree.adapters.microvm.live_machines import LiveMachines
from contree.adapters.microvm.machine import Machine


class SlowToGo:
    """Its QEMU is reaped when `reaped` is set."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.killed = 0
        self.retiring = False
        self.gone = asyncio.Event()
        self.reaped = asyncio.Event()

        class Spec:
            name = key

        self.spec = Spec()

    def kill(self) -> None:
        self.killed += 1

    async def retire(self) -> None:
        await self.reaped.wait()


@pytest.fixture
def runtime() -> Iterator[RuntimeDir]:
    """pytest's own directories are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="ct", dir="/tmp") as name:
        made = RuntimeDir(Path(name) / "r", scratch=Path(name) / "s", uri="qemu:///session")
        made.lock()
        yield made
        made.unlock()


async def test_a_guest_is_killed_at_once_and_reaped_on_nobody_s_path(runtime: RuntimeDir) -> None:
    machines, slow = LiveMachines(runtime), SlowToGo("one")
    directory = runtime.guest_dir("one")
    directory.mkdir()
    async with asyncio.timeout(10), machines.owned(cast("Machine", slow)):
        pass  # leaving must not wait
    assert (slow.killed, slow.retiring) == (1, True)
    assert directory.exists()  # its QEMU may still write there
    assert not slow.gone.is_set()
    closing = asyncio.create_task(machines.end_all())
    await asyncio.sleep(0)
    assert not closing.done()
    slow.reaped.set()
    await closing
    assert slow.gone.is_set()
    assert not directory.exists()


async def test_a_name_is_taken_until_its_guest_is_gone(runtime: RuntimeDir) -> None:
    machines, slow, same = LiveMachines(runtime), SlowToGo("one"), SlowToGo("one")
    async with machines.owned(cast("Machine", slow)):
        pass
    with pytest.raises(ValueError, match="in use"):
        async with machines.owned(cast("Machine", same)):
            pass
    slow.reaped.set()
    await machines.end_all()
    async with machines.owned(cast("Machine", same)):
        assert machines.keys() == {"one"}
    same.reaped.set()
    await machines.end_all()
