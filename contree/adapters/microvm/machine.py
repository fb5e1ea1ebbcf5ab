"""One microVM from its private directory to the last trace of it.

    prepare (files made) -> create (QEMU runs) -> connect (agent READY) -> configure (root mounted)
                                           or, for a template, -> mount_common -> save
                                           or, to wait, -> rehearse -> take_up -> configure
    any of these, at any moment -> kill (at once, no waiting) -> retire (reaped, let go)

`kill` and `retire` work from every state, also while libvirt is still starting the domain. What
the guest does once it is configured is guest.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from contree.adapters.microvm.agent import commands, messages
from contree.adapters.microvm.agent.channel import PORT_CLOSED, AgentChannel, Deadlines
from contree.adapters.microvm.agent.commands import HostFrameType, PciAddress
from contree.adapters.microvm.agent.console import Console
from contree.adapters.microvm.agent.data_port import DataPort
from contree.adapters.microvm.agent.frames import PROTOCOL_VERSION
from contree.adapters.microvm.agent.guest import AgentGuest
from contree.adapters.microvm.agent.guest_clock import clock_fault
from contree.adapters.microvm.agent.guest_sockets import GuestSockets
from contree.adapters.microvm.agent.messages import AgentState
from contree.adapters.microvm.hypervisor.connection import LibvirtConnection
from contree.adapters.microvm.hypervisor.domain_xml import (
    AGENT_SOCKET,
    CONSOLE_SOCKET,
    LAYERS_SLOT,
    SCRATCH_SLOT,
    DomainSpec,
    domain_xml,
)
from contree.adapters.microvm.hypervisor.qemu_process import QemuProcess
from contree.adapters.microvm.templates.template import Template
from contree.app.guest.microvm import GuestInfo, Origin
from contree.domain.errors import GuestFailure

REAP_TIMEOUT_S = 30.0
EXIT_NEWS_TIMEOUT_S = 0.5
NO_ROOM = "there is no room left on the worker's disk for what it writes"

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BootPhases:
    """Seconds of each step of the last start, for the operator and the bench.

    create_s     until QEMU runs, a clone's with the state loaded
    ready_s      until the agent's first answer; of one that waited, until it has its layers
    configure_s  until the root is mounted; the caller goes on meanwhile
    """

    create_s: float = 0.0
    ready_s: float = 0.0
    configure_s: float = 0.0


class Machine:
    """One guest's QEMU. Its files are the caller's to make and, once it is retired, to remove.

    key          the caller's name of it
    template     what a clone is made of; None boots
    domain_log   what libvirt keeps of QEMU's standard error, ours to remove; None with a daemon
    pid_file     what libvirt keeps of QEMU's process number; None with a daemon
    """

    def __init__(
        self,
        key: str,
        spec: DomainSpec,
        connection: LibvirtConnection,
        *,
        deadlines: Deadlines,
        domain_log: Path | None,
        pid_file: Path | None,
        template: Template | None = None,
    ) -> None:
        self.key = key
        self.spec = spec
        self.guest = AgentGuest()
        self.phases = BootPhases()
        self._connection = connection
        self._deadlines = deadlines
        self._domain_log = domain_log
        self._pid_file = pid_file
        self._template = template
        self._step: asyncio.Task[None] | None = None
        self._mounting: asyncio.Task[None] | None = None
        self._process: QemuProcess | None = None
        self._console: Console | None = None
        self._channel: AgentChannel | None = None
        self._data: DataPort | None = None
        self._sockets = GuestSockets(spec.directory)
        self.other_scratch = False  # than the one which the template's guest has mounted
        self._created = False
        self._configured = False
        self._origin = Origin.COLD if template is None else Origin.TEMPLATE
        self.retiring = False
        self.gone = asyncio.Event()  # set by whoever retires us, when no file is left either
        self._killed = False

    async def prepare(self, files: Coroutine[None, None, None]) -> None:
        """Await `files`, which fills our directory; it goes on if this is cancelled."""
        self._step = asyncio.create_task(files)
        await asyncio.shield(self._step)

    async def create(self) -> None:
        """Start QEMU and the guest in it. Raises GuestFailure."""
        began = time.monotonic()
        self._created = True
        self._connection.on_disk_error[self.spec.name] = self._on_disk_error
        self._connection.stopped[self.spec.name] = asyncio.Event()
        xml = domain_xml(self.spec)
        connect = self._sockets.connect
        if self._template is None:
            creating = self._connection.create(xml, connect=connect)
        else:
            creating = self._connection.restore(xml, self._template.state, connect=connect)
        self._step = asyncio.create_task(creating)
        await asyncio.shield(self._step)
        self._process = self._find()
        if self._process is not None:
            self._process.restrain()
            self._process.on_exit = self._on_exit
        self.phases.create_s = time.monotonic() - began

    async def connect(self, *, within_s: float) -> messages.Ready:
        """Return what the agent says once it is up. Raises GuestFailure."""
        began = time.monotonic()
        console, _ = await self._sockets.stream(CONSOLE_SOCKET)
        self._console = Console(console)
        self._data = self._sockets.data_port()
        reader, writer = await self._sockets.stream(AGENT_SOCKET)
        self._channel = AgentChannel(
            reader,
            writer,
            deadlines=self._deadlines,
            on_frame=self.guest.take,
            paused=lambda: self.guest.buffer.full,
            explain=self._explain,
            on_lost=self.guest.lost,
        )
        ready = await self._channel.answer((HostFrameType.HELLO, 0), within_s=within_s)
        assert isinstance(ready, messages.Ready)  # answered_by pairs them
        if ready.version != PROTOCOL_VERSION:
            raise await self._channel.lose(
                f"its agent speaks protocol {ready.version}, not {PROTOCOL_VERSION}"
            )
        if ready.state is not AgentState.BLANK:
            raise await self._channel.lose(f"its agent is {ready.state.name} before its time")
        self.phases.ready_s = time.monotonic() - began
        return ready

    async def clock_fault(self) -> str | None:
        """Return what is wrong with the rate of the guest's clock. Raises GuestFailure."""
        assert self._channel is not None
        return await clock_fault(self._channel)

    async def mount_common(self) -> None:
        """Make a template's guest mount what depends on no image. Raises GuestFailure."""
        assert self._channel is not None
        frame = commands.prepare(
            layers_disk=PciAddress(slot=LAYERS_SLOT), scratch_disk=PciAddress(slot=SCRATCH_SLOT)
        )
        answer = await self._channel.ask(frame, (HostFrameType.PREPARE, 0))
        if isinstance(answer, messages.GuestError):
            raise await self._channel.lose(f"it could not be prepared: {answer.message}")

    async def rehearse(self, *, layer_count: int) -> None:
        """Make a clone's guest go through a whole run for nothing, then stop it.

        It is as blank as before, but what QEMU has translated of its code is there, and clones do
        not inherit that. Raises GuestFailure.
        """
        assert self._channel is not None
        boot_id = UUID(bytes=os.urandom(16), version=4)
        frame = commands.rehearse(self._configuration(boot_id, "rehearsal", layer_count))
        answer = await self._channel.ask(frame, (HostFrameType.REHEARSE, 0))
        if isinstance(answer, messages.GuestError):
            raise await self._channel.lose(f"its rehearsal failed: {answer.message}")
        self._step = asyncio.create_task(self._connection.suspend(self.spec.name))
        await asyncio.shield(self._step)

    async def take_up(self, layers_disk: Path) -> None:
        """Let a guest that was stopped after its rehearsal go on, with these layers.

        Raises GuestFailure, also when QEMU does not answer: it may have been stuck for long.
        """
        began, within_s = time.monotonic(), self._deadlines.restore_s
        self._origin = Origin.WARM
        self._step = asyncio.create_task(self._connection.resume_with(self.spec.name, layers_disk))
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._step)
        except TimeoutError as error:
            raise GuestFailure(f"it did not go on in {within_s:g} s", retryable=True) from error
        self.phases = BootPhases(ready_s=time.monotonic() - began)

    @property
    def failure(self) -> GuestFailure | None:
        """Why the guest is lost, as far as that is known."""
        return None if self._channel is None else self._channel.failure

    def configure(
        self, ready: messages.Ready, *, hostname: str, layer_count: int, scratch_room: int
    ) -> None:
        """Begin to give the guest its identity and disks, `scratch_room` bytes of the scratch disk.

        `guest` may be asked for something at once; it waits. When it cannot mount its disks, it is
        lost.
        """
        assert self._channel is not None
        assert self._data is not None
        boot_id = UUID(bytes=os.urandom(16), version=4)
        asked = self._configuration(boot_id, hostname, layer_count)
        frame = commands.configure(replace(asked, scratch_room=scratch_room))
        info = GuestInfo(
            accelerator=self.spec.accelerator,
            kernel=ready.kernel_release,
            machine=ready.machine,
            boot_id=boot_id,
            init_pid=ready.agent_pid,
            started_at=datetime.now(UTC),
            origin=self._origin,
        )
        self.guest.attach(self._channel, self._data, info)
        self._mounting = asyncio.create_task(self._configure(self._channel, frame))

    def _configuration(self, boot_id: UUID, hostname: str, layer_count: int) -> commands.Configure:
        return commands.Configure(
            entropy=os.urandom(commands.ENTROPY_BYTES),
            realtime_ns=time.time_ns(),
            boot_id=boot_id.bytes,
            hostname=hostname,
            layer_count=layer_count,
            other_scratch=self.other_scratch,
            layers_disk=PciAddress(slot=LAYERS_SLOT),
            scratch_disk=PciAddress(slot=SCRATCH_SLOT),
        )

    async def _configure(self, channel: AgentChannel, frame: bytes) -> None:
        began = time.monotonic()
        try:
            answer = await channel.ask(frame, (HostFrameType.CONFIGURE, 0))
            if isinstance(answer, messages.GuestError):
                raise await channel.lose(f"it could not mount its disks: {answer.message}")
        except GuestFailure:
            return  # whoever asks the guest for something is told
        finally:
            self.guest.mounted.set()
        self._configured = True
        channel.watch()
        self.phases.configure_s = time.monotonic() - began
        log.debug("guest %s: %s", self.spec.name, self.phases)

    def memory_bytes(self) -> int:
        """Return the memory that is this guest's alone; a clone shares its template's pages."""
        if self._process is None:
            return 0
        private, shared = self._process.memory_bytes()
        return private if self._template is not None else private + shared

    async def save(self, state: Path) -> None:
        """Stop a template's guest and write its device state. Raises GuestFailure."""
        self._step = asyncio.create_task(self._connection.save(self.spec.name, state))
        await asyncio.shield(self._step)

    def kill(self) -> None:
        """End QEMU at once."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    async def retire(self) -> None:
        """Wait until QEMU is reaped and libvirt has let go, whatever state this is in."""
        if self._channel is not None:
            await self._channel.aclose()
        if self._mounting is not None:
            self._mounting.cancel()
            await asyncio.wait({self._mounting})
        await self.guest.lost(None)
        if self._step is not None:
            await asyncio.wait({self._step})
            if not self._step.cancelled():
                self._step.exception()  # whoever started this guest has seen it
        if self._created:
            await self._reap()
        if self._console is not None:
            await self._console.aclose()
        self._sockets.close()
        if self._domain_log is not None:
            with contextlib.suppress(OSError):
                self._domain_log.unlink()

    def _find(self) -> QemuProcess | None:
        return QemuProcess.find(f"guest={self.spec.name},", pid_file=self._pid_file)

    async def _reap(self) -> None:
        name = self.spec.name
        self._connection.on_disk_error.pop(name, None)
        process = self._process or self._find()
        ended = process is not None and await self._ended(process)
        with contextlib.suppress(GuestFailure):
            if ended and self._process is not None:
                await self._connection.let_go(name)
            else:  # it does not end, or its start failed
                await self._connection.destroy(name)
        del self._connection.stopped[name]

    async def _ended(self, process: QemuProcess) -> bool:
        """Kill it and wait until it is reaped, as far as REAP_TIMEOUT_S allows."""
        process.on_exit = None
        process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_TIMEOUT_S):
                await process.exited.wait()
        process.close()
        return process.exited.is_set()

    def _on_exit(self) -> None:
        if self._channel is not None and not self._killed:
            self._losing = asyncio.create_task(self._channel.lose(PORT_CLOSED))

    def _on_disk_error(self, reason: str) -> None:
        """QEMU has stopped the guest, which would wait for ever for room on our disk."""
        if self._channel is not None and not self._killed:
            text = NO_ROOM if reason == "enospc" else f"its disk failed ({reason})"
            self._losing = asyncio.create_task(self._channel.lose(text))

    async def _exited(self) -> bool:
        """Whether QEMU is gone; the news of it may come just after the end of its sockets."""
        if self._process is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_NEWS_TIMEOUT_S):
                await self._process.exited.wait()
        return self._process.exited.is_set()

    async def _explain(self, reason: str) -> GuestFailure:
        """Make a failure with what the kernel and the console know.

        Retryable unless the command itself may be why: before it could run, or when QEMU was
        killed from outside.
        """
        full = reason == NO_ROOM
        gone = reason == PORT_CLOSED and await self._exited()
        killed = gone and self._process is not None and self._process.killed
        if gone:
            reason = "its QEMU was killed" if killed else "its QEMU ended"
        last_words = "" if self._console is None else await self._console.last_words(ended=gone)
        text = f"the guest was lost: {reason}"
        if last_words:
            text += f" (console: {last_words})"
        return GuestFailure(text, retryable=killed or not self._configured, host_full=full)
