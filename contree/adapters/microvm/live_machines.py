"""The machines of this process that are not yet gone, and the tasks that see them off.

Leaving `owned` is SIGKILL to the QEMU, at once; reaping it, libvirt's part and the files follow in
a task of our own, off the caller's path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contree.adapters.microvm.hypervisor.runtime_dir import RuntimeDir
from contree.adapters.microvm.machine import Machine

log = logging.getLogger(__name__)


class LiveMachines:
    """Machines by key; their files are `runtime`'s."""

    def __init__(self, runtime: RuntimeDir) -> None:
        self._runtime = runtime
        self._active: dict[str, Machine] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def keys(self) -> frozenset[str]:
        return frozenset(self._active)

    def memory_bytes(self) -> int:
        live = [machine for machine in self._active.values() if not machine.retiring]
        return sum(machine.memory_bytes() for machine in live)

    def add(self, machine: Machine) -> None:
        """Have `machine` until `end`. Raises ValueError when its key is taken."""
        if machine.key in self._active:
            raise ValueError(f"run_id of {machine.spec.name} is in use")
        self._active[machine.key] = machine

    @asynccontextmanager
    async def owned(self, machine: Machine) -> AsyncIterator[None]:
        """`add` it, and end it on exit."""
        self.add(machine)
        try:
            yield
        finally:
            self.end(machine)

    def end(self, machine: Machine) -> None:
        """Kill `machine`, once or again, and see to the rest in the background."""
        machine.kill()
        if not machine.retiring:
            machine.retiring = True
            task = asyncio.create_task(self._retire(machine), name=machine.spec.name)
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def end_all(self) -> None:
        """End every machine and wait until nothing of them is left."""
        for machine in tuple(self._active.values()):
            self.end(machine)
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _retire(self, machine: Machine) -> None:
        try:
            await machine.retire()
            await asyncio.to_thread(self._runtime.remove_guest, machine.key)
        except Exception:
            log.exception("guest %s was not cleared away", machine.spec.name)
        finally:
            self._active.pop(machine.key, None)
            machine.gone.set()
