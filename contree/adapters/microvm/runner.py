"""`app.guest.microvm.MicroVM` on libvirt: starts guests, and leaves nothing behind.

    runtime_dir  see runtime_dir.py: short paths, sockets, one process at a time
    cache_dir    blank and live scratch disks, libvirt's probe of QEMU, the accelerator's verdict,
                 guest templates

A guest is a clone of the template; when there is none, or restoring fails, it boots. Some clones
may wait for their run (warm_guests.py). What an earlier process left is ended by pid, not by asking
it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from contree.adapters.microvm.agent.channel import Deadlines
from contree.adapters.microvm.agent.messages import Ready
from contree.adapters.microvm.boot.assets import GuestAssets
from contree.adapters.microvm.booting import boot
from contree.adapters.microvm.disks.layers_disk import DESCRIPTOR_NAME
from contree.adapters.microvm.disks.scratch_disk import FORMAT_VERSION as SCRATCH_FORMAT
from contree.adapters.microvm.disks.scratch_disk import ScratchDisks, room_bytes
from contree.adapters.microvm.guest_files import GuestFiles
from contree.adapters.microvm.hypervisor import accelerator as accelerators
from contree.adapters.microvm.hypervisor import qemu_process
from contree.adapters.microvm.hypervisor.accelerator import Choice, KvmProbe
from contree.adapters.microvm.hypervisor.connection import MACHINE, LibvirtConnection
from contree.adapters.microvm.hypervisor.domain_xml import NAME_PREFIX, DomainSpec, Role
from contree.adapters.microvm.hypervisor.runtime_dir import RuntimeDir
from contree.adapters.microvm.live_machines import LiveMachines
from contree.adapters.microvm.machine import Machine
from contree.adapters.microvm.templates.template import Template, TemplateStore, template_key
from contree.adapters.microvm.templates.template_keeper import TemplateKeeper
from contree.adapters.microvm.waiting_clone import WaitingClone
from contree.adapters.microvm.warm_guests import WarmGuests
from contree.app.guest.microvm import Guest, GuestSpec, Origin
from contree.app.images.layer_store import FilePart, MountPlan
from contree.app.worker_standing import GuestStarts
from contree.domain.errors import GuestFailure
from contree.programs import QEMU

MEMORY_MIB_DEFAULT = 512
VCPU_COUNT_DEFAULT = 1
LAYER_BYTES_DEFAULT = 12 * 1024**3
_PROBE = GuestSpec(
    run_id=UUID(int=0), mounts=MountPlan(squashfs=()), hostname="probe", max_layer_bytes=1
)

_Up = tuple[Machine, Ready]

log = logging.getLogger(__name__)


class LibvirtMicroVM:
    """See `app.guest.microvm.MicroVM`. `open` makes one, `aclose` ends it."""

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
        max_layer_bytes: int = LAYER_BYTES_DEFAULT,
    ) -> None:
        self.chosen = Choice(accelerator=accelerators.TCG)
        self._connection = connection
        self._runtime = runtime
        self._files = GuestFiles(scratch, max_layer_bytes=max_layer_bytes)
        self._assets = assets
        self._memory_mib = memory_mib
        self._vcpu_count = vcpu_count
        self._deadlines = deadlines
        self._max_layer_bytes = max_layer_bytes
        self._machines = LiveMachines(runtime)
        self.templates: TemplateKeeper | None = None
        """None: every guest boots."""
        self.warm = WarmGuests(self._make_waiting)
        self._came_up = dict.fromkeys(Origin, 0)
        self._failed = 0

    @classmethod
    async def open(
        cls,
        *,
        uri: str | None,
        runtime_dir: Path,
        cache_dir: Path,
        assets: GuestAssets,
        accelerator: str = accelerators.AUTO,
        kvm_probe_timeout_s: float | None = None,
        kvm_record: Path | None = None,
        memory_mib: int = MEMORY_MIB_DEFAULT,
        vcpu_count: int = VCPU_COUNT_DEFAULT,
        max_layer_bytes: int = LAYER_BYTES_DEFAULT,
        deadlines: Deadlines | None = None,
        reprobe: bool = False,
        templates: bool = True,
    ) -> LibvirtMicroVM:
        """Connect to libvirt, settle the accelerator, open the template or begin to build it.

        uri          None for a libvirt of our own in this process; else qemu:///session, ...
        runtime_dir  short (unix sockets lie below it), private, on this host
        accelerator  auto, kvm or tcg
        kvm_probe_timeout_s, kvm_record   see accelerator.py; the record is below `cache_dir`
                     unless given; `reprobe` does not believe it, and replaces it
        memory_mib, vcpu_count   of each guest
        max_layer_bytes   what guests are usually allowed: the template has such a scratch disk
        templates    False: boot every guest from cold

        Raises GuestFailure with what is missing, also when another process has `runtime_dir`, and
        UnavailableError when QEMU is not installed.
        """
        runtime = RuntimeDir(runtime_dir, scratch=cache_dir / "scratch", uri=uri)
        runtime.lock()
        try:
            connection = await runtime.connect(probe_cache=cache_dir / "libvirt")
        except BaseException:
            runtime.remove()
            raise
        microvm = cls(
            connection=connection,
            runtime=runtime,
            scratch=ScratchDisks(cache_dir / "scratch"),
            assets=assets,
            memory_mib=memory_mib,
            vcpu_count=vcpu_count,
            deadlines=deadlines or Deadlines(),
            max_layer_bytes=max_layer_bytes,
        )
        try:
            probe = KvmProbe(
                microvm.probe_kvm,
                record=kvm_record or cache_dir / "accelerator.json",
                timeout_s=kvm_probe_timeout_s,
            )
            host = accelerators.host_key(Path(QEMU.path()))
            microvm.chosen = await probe.choose(accelerator, host=host, anew=reprobe)
            if templates:
                await microvm.use_templates(cache_dir / "templates", uri=uri)
        except BaseException:
            await microvm.aclose()
            raise
        return microvm

    def start(self, spec: GuestSpec) -> AbstractAsyncContextManager[Guest]:
        return self._start(spec)

    def memory_bytes(self) -> int:
        return self._machines.memory_bytes()

    def starts(self) -> GuestStarts:
        """How guests were started so far."""
        return GuestStarts(
            by_origin=dict(self._came_up),
            fallbacks=0 if self.templates is None else self.templates.counts.fallbacks,
            failed=self._failed,
            waiting=len(self.warm.waiting),
        )

    def keep_waiting(self, count: int, *, fill: bool) -> None:
        if self.templates is not None:
            self.warm.want(count, fill=fill)

    async def sweep(self) -> int:
        left = self._runtime.guest_keys() - self._machines.keys()
        marks = [f"{self._runtime.guest_dir(key)}/" for key in left]
        for domain in await self._connection.active_domains():
            if any(mark in domain.xml for mark in marks):
                await self._connection.destroy(domain.name)
        for mark in marks:
            qemu_process.kill_qemus(mark)
        for key in left:
            await asyncio.to_thread(self._runtime.remove_guest, key)
        return len(left)

    async def probe_kvm(self, within_s: float) -> None:
        """Boot a guest of no layers under KVM. Raises GuestFailure when it does not get ready."""
        machine = self._machine(_PROBE.run_id, accelerator=accelerators.KVM)
        async with self._machines.owned(machine):
            await machine.prepare(self._files.write(machine.spec, _PROBE))
            await machine.create()
            await machine.connect(within_s=within_s)

    async def use_templates(self, directory: Path, *, uri: str | None) -> None:
        """Open the template of our guests, below `directory`, or begin to build it."""
        host = await asyncio.to_thread(accelerators.host_key, Path(QEMU.path()))
        facts = [
            await asyncio.to_thread(self._assets.digest),
            await self._connection.version(),
            host,
            f"user {os.geteuid()} libvirt {uri or 'embedded'}",
            f"scratch {self._files.usual_mib} MiB, format {SCRATCH_FORMAT}",
        ]
        shape = replace(
            self._machine(_PROBE.run_id).spec,
            name="NAME", directory=Path("/D"), layers_vmdk=Path("/L"), scratch_image=Path("/S"),
            kernel=Path("/K"), initramfs=Path("/I"), role=Role.CLONE, memory_file=Path("/M"),
        )  # fmt: skip
        store = TemplateStore(directory, template_key(shape, facts=facts))
        self.templates = TemplateKeeper(
            store, kernel=self._assets.kernel, build=self._build_template
        )
        await self.templates.looked()

    async def aclose(self) -> None:
        """End every guest, wait until nothing of them is left, and let go of libvirt."""
        await self.warm.aclose()
        if self.templates is not None:
            await self.templates.aclose()
        await self._machines.end_all()
        await self._connection.aclose()
        await asyncio.to_thread(self._runtime.remove)

    @asynccontextmanager
    async def _start(self, spec: GuestSpec) -> AsyncIterator[Guest]:
        async with AsyncExitStack() as stack:
            try:
                machine, ready = (
                    await self._waited(spec, stack)
                    or await self._restored(spec, stack)
                    or await self._booted(spec, stack)
                )
            except GuestFailure:
                self._failed += 1
                raise
            machine.configure(
                ready,
                hostname=spec.hostname,
                layer_count=len(spec.mounts.squashfs),
                scratch_room=room_bytes(spec.max_layer_bytes),
            )
            self._came_up[machine.guest.info.origin] += 1
            yield machine.guest

    async def _waited(self, spec: GuestSpec, stack: AsyncExitStack) -> _Up | None:
        """Return a guest that waited, with its layers; None when there is none for `spec`."""
        waiting = self.warm.take() if self._files.of_usual_size(spec) else None
        if waiting is None:
            return None
        machine = waiting.machine
        stack.callback(self._machines.end, machine)
        try:
            disk = await self._files.write_own_layers(machine.spec, spec.mounts)
            await machine.take_up(disk)
        except GuestFailure as failure:
            log.warning("a guest that waited is not used, another is restored: %s", failure)
            self._machines.end(machine)
            return None
        return machine, waiting.ready

    async def _make_waiting(self) -> WaitingClone:
        """Return a clone that waits for its run. Raises GuestFailure."""
        template = None if self.templates is None else await self.templates.current()
        if self.templates is None or template is None:
            raise GuestFailure("there is no template")
        layer = self._assets.rehearsal
        whole = FilePart(path=layer, offset_bytes=0, size_bytes=layer.stat().st_size)
        spec = GuestSpec(
            run_id=_new_id(),
            mounts=MountPlan(squashfs=((whole,),)),
            hostname="rehearsal",
            max_layer_bytes=self._max_layer_bytes,
        )
        machine = self._machine(spec.run_id, role=Role.CLONE, template=template)
        self._machines.add(machine)
        try:
            await machine.prepare(self._files.write(machine.spec, spec, template))
            await machine.create()
            ready = await machine.connect(within_s=self._deadlines.restore_s)
            await machine.rehearse(layer_count=len(spec.mounts.squashfs))
        except BaseException:
            self._machines.end(machine)
            raise
        return WaitingClone(
            machine=machine,
            ready=ready,
            template=template,
            templates=self.templates,
            machines=self._machines,
        )

    async def _restored(self, spec: GuestSpec, stack: AsyncExitStack) -> _Up | None:
        """Return a clone of the template, None when there is no template or it did not work."""
        template = None if self.templates is None else await self.templates.current()
        if self.templates is None or template is None:
            return None
        machine = self._machine(spec.run_id, role=Role.CLONE, template=template)
        machine.other_scratch = not self._files.of_usual_size(spec)
        await stack.enter_async_context(self._machines.owned(machine))
        await machine.prepare(self._files.write(machine.spec, spec, template))
        try:
            await machine.create()
            ready = await machine.connect(within_s=self._deadlines.restore_s)
        except GuestFailure as failure:
            self._machines.end(machine)
            await self.templates.failed(template, failure)
            return None
        self.templates.worked()
        return machine, ready

    async def _booted(self, spec: GuestSpec, stack: AsyncExitStack) -> _Up:
        """Return a guest that booted. Raises GuestFailure."""

        def make() -> Machine:
            # An earlier guest of this run was refused, and may not be gone yet.
            taken = self._runtime.guest_key(spec.run_id) in self._machines.keys()  # noqa: SIM118 - no mapping
            return self._machine(_new_id() if taken else spec.run_id)

        machine, ready = await boot(
            self._machines,
            make,
            files=lambda domain: self._files.write(domain, spec),
            within_s=self._deadlines.boot_s,
        )
        stack.callback(self._machines.end, machine)
        return machine, ready

    async def _build_template(self, partial: Path) -> None:
        """Boot a guest without layers and leave all of it in `partial`. Raises GuestFailure.

        It runs nothing but the kernel and the agent, which has not been told anything yet.
        """
        ram = TemplateStore.ram_in(partial)

        def make() -> Machine:
            ram.unlink(missing_ok=True)  # of one that was refused
            return self._machine(_new_id(), role=Role.TEMPLATE, ram=ram)

        machine, _ = await boot(
            self._machines,
            make,
            files=self._files.write_placeholders,
            within_s=self._deadlines.boot_s,
        )
        try:
            await machine.mount_common()
            await machine.save(TemplateStore.state_in(partial))
            await self._files.keep_scratch(machine.spec, partial)
        finally:
            self._machines.end(machine)
        await machine.gone.wait()  # only then nobody writes to its RAM any more

    def _machine(
        self,
        run_id: UUID,
        *,
        accelerator: str | None = None,
        role: Role = Role.COLD,
        template: Template | None = None,
        ram: Path | None = None,
    ) -> Machine:
        key = self._runtime.guest_key(run_id)
        name = f"{NAME_PREFIX}{run_id.hex}"
        directory = self._runtime.guest_dir(key)
        domain = DomainSpec(
            name=name,
            accelerator=accelerator or self.chosen.accelerator,
            memory_mib=self._memory_mib,
            vcpu_count=self._vcpu_count,
            emulator=QEMU.path(),
            machine=MACHINE,
            kernel=self._assets.kernel if template is None else template.kernel,
            initramfs=self._assets.initramfs if template is None else template.initrd,
            directory=directory,
            layers_vmdk=directory / DESCRIPTOR_NAME,
            scratch_image=self._runtime.scratch_image(key),
            role=role,
            memory_file=ram if template is None else template.memory_file,
        )
        return Machine(
            key,
            domain,
            self._connection,
            deadlines=self._deadlines,
            domain_log=self._runtime.domain_log(name),
            pid_file=self._runtime.pid_file(name),
            template=template,
        )


def _new_id() -> UUID:
    return UUID(bytes=os.urandom(16), version=4)
