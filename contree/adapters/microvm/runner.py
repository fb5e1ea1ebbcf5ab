"""`app.microvm.MicroVM` on libvirt: starts guests, and leaves nothing behind.

    runtime_dir  see runtime_dir.py: short paths, sockets, one process at a time
    cache_dir    blank and live scratch disks, libvirt's probe of QEMU, the accelerator's verdict

Ending a guest is SIGKILL to its QEMU, at once; waiting for the rest happens in tasks of our own
that `aclose` awaits. A guest that an earlier process left is ended by pid, not by asking it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import UUID

from contree.adapters.microvm import accelerator as accelerators
from contree.adapters.microvm import qemu_process
from contree.adapters.microvm.accelerator import PROBE_TIMEOUT_S
from contree.adapters.microvm.assets import GuestAssets
from contree.adapters.microvm.channel import Deadlines
from contree.adapters.microvm.connection import EMULATOR, MACHINE, LibvirtConnection
from contree.adapters.microvm.domain_xml import NAME_PREFIX, DomainSpec
from contree.adapters.microvm.layers_disk import DESCRIPTOR_NAME, write_layers_disk
from contree.adapters.microvm.machine import Machine
from contree.adapters.microvm.runtime_dir import RuntimeDir
from contree.adapters.microvm.scratch_disk import ScratchDisks
from contree.app.layer_store import MountPlan
from contree.app.microvm import Guest, GuestSpec
from contree.domain.errors import GuestFailure

MEMORY_MIB_DEFAULT = 512
VCPU_COUNT_DEFAULT = 1
_PROBE_ID = UUID(int=0)

log = logging.getLogger(__name__)


class LibvirtMicroVM:
    """See `app.microvm.MicroVM`. `open` makes one, `aclose` ends it."""

    def __init__(
        self,
        *,
        connection: LibvirtConnection,
        runtime: RuntimeDir,
        scratch: ScratchDisks,
        assets: GuestAssets,
        memory_mib: int,
        vcpu_count: int,
        deadlines: Deadlines,
    ) -> None:
        self.accelerator = accelerators.TCG
        self._connection = connection
        self._runtime = runtime
        self._scratch = scratch
        self._assets = assets
        self._memory_mib = memory_mib
        self._vcpu_count = vcpu_count
        self._deadlines = deadlines
        self._active: dict[str, Machine] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        *,
        uri: str | None,
        runtime_dir: Path,
        cache_dir: Path,
        assets: GuestAssets,
        accelerator: str = accelerators.AUTO,
        memory_mib: int = MEMORY_MIB_DEFAULT,
        vcpu_count: int = VCPU_COUNT_DEFAULT,
        deadlines: Deadlines | None = None,
        reprobe: bool = False,
    ) -> LibvirtMicroVM:
        """Connect to libvirt and settle the accelerator.

        uri          None for a libvirt of our own in this process; else qemu:///session, ...
        runtime_dir  short (unix sockets lie below it), private, on this host
        accelerator  auto, kvm or tcg; `reprobe` ignores an earlier verdict
        memory_mib, vcpu_count   of each guest

        Raises GuestFailure with what is missing, also when another process has `runtime_dir`.
        """
        runtime = RuntimeDir(runtime_dir, scratch=cache_dir / "scratch", uri=uri)
        runtime.lock()
        try:
            connection = await runtime.connect(probe_cache=cache_dir / "libvirt")
        except BaseException:
            runtime.unlock()
            raise
        microvm = cls(
            connection=connection,
            runtime=runtime,
            scratch=ScratchDisks(cache_dir / "scratch"),
            assets=assets,
            memory_mib=memory_mib,
            vcpu_count=vcpu_count,
            deadlines=deadlines or Deadlines(),
        )
        try:
            microvm.accelerator = await accelerators.choose(
                accelerator,
                record=cache_dir / "accelerator.json",
                host=accelerators.host_key(Path(EMULATOR)),
                probe_kvm=microvm.probe_kvm,
                reprobe=reprobe,
            )
        except BaseException:
            await microvm.aclose()
            raise
        return microvm

    def start(self, spec: GuestSpec) -> AbstractAsyncContextManager[Guest]:
        return self._start(spec)

    async def sweep(self) -> int:
        left = self._runtime.guest_keys() - self._active.keys()
        marks = [f"{self._runtime.guest_dir(key)}/" for key in left]
        for domain in await self._connection.active_domains():
            if any(mark in domain.xml for mark in marks):
                await self._connection.destroy(domain.name)
        for mark in marks:
            qemu_process.kill_qemus(mark)
        for key in left:
            await asyncio.to_thread(self._runtime.remove_guest, key)
        return len(left)

    async def probe_kvm(self) -> None:
        """Boot a guest of no layers under KVM. Raises GuestFailure when it does not get ready."""
        nothing = GuestSpec(
            run_id=_PROBE_ID, mounts=MountPlan(squashfs=()), hostname="probe", max_layer_bytes=1
        )
        machine = self._machine(nothing, accelerators.KVM)
        async with self._owned(machine):
            await machine.prepare(self._write_files(machine, nothing))
            await machine.create()
            await machine.connect(within_s=PROBE_TIMEOUT_S)

    async def aclose(self) -> None:
        """End every guest, wait until nothing of them is left, and let go of libvirt."""
        for machine in tuple(self._active.values()):
            machine.kill()
            self._retire(machine)
        if self._retiring:
            await asyncio.wait(self._retiring)
        await self._connection.aclose()
        self._runtime.unlock()

    @asynccontextmanager
    async def _start(self, spec: GuestSpec) -> AsyncIterator[Guest]:
        machine = self._machine(spec, self.accelerator)
        async with self._owned(machine):
            await machine.prepare(self._write_files(machine, spec))
            await machine.create()
            ready = await machine.connect(within_s=self._deadlines.boot_s)
            await machine.configure(
                ready, hostname=spec.hostname, layer_count=len(spec.mounts.squashfs)
            )
            log.debug("guest %s: %s", machine.spec.name, machine.phases)
            yield machine.guest

    @asynccontextmanager
    async def _owned(self, machine: Machine) -> AsyncIterator[None]:
        if machine.key in self._active:
            raise ValueError(f"run_id of {machine.spec.name} is in use")
        self._active[machine.key] = machine
        try:
            yield
        finally:
            machine.kill()
            self._retire(machine)

    def _retire(self, machine: Machine) -> None:
        if not machine.retiring:
            machine.retiring = True
            task = asyncio.create_task(self._retire_now(machine), name=machine.spec.name)
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire_now(self, machine: Machine) -> None:
        try:
            await machine.retire()
            await asyncio.to_thread(self._runtime.remove_guest, machine.key)
        except Exception:
            log.exception("guest %s was not cleared away", machine.spec.name)
        finally:
            self._active.pop(machine.key, None)

    def _machine(self, spec: GuestSpec, accelerator: str) -> Machine:
        key = self._runtime.guest_key(spec.run_id)
        name = f"{NAME_PREFIX}{spec.run_id.hex}"
        directory = self._runtime.guest_dir(key)
        domain = DomainSpec(
            name=name,
            accelerator=accelerator,
            memory_mib=self._memory_mib,
            vcpu_count=self._vcpu_count,
            emulator=EMULATOR,
            machine=MACHINE,
            kernel=self._assets.kernel,
            initramfs=self._assets.initramfs,
            directory=directory,
            layers_vmdk=directory / DESCRIPTOR_NAME,
            scratch_image=self._runtime.scratch_image(key),
        )
        return Machine(
            key,
            domain,
            self._connection,
            deadlines=self._deadlines,
            domain_log=self._runtime.domain_log(name),
        )

    async def _write_files(self, machine: Machine, spec: GuestSpec) -> None:
        domain = machine.spec
        try:
            domain.directory.mkdir(mode=0o700)
        except OSError as error:
            reason = f"guest directory {domain.directory}: {error.strerror}"
            raise GuestFailure(reason, retryable=True) from error
        await asyncio.to_thread(write_layers_disk, domain.directory, spec.mounts.squashfs)
        await self._scratch.copy_to(domain.scratch_image, max_layer_bytes=spec.max_layer_bytes)
