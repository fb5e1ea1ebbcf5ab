"""The floor: a bare QEMU with the guest that a worker would start, without libvirt and server.

Same template (the same sealed memory, mapped privately, and the same device state), devices, disks
and agent protocol; no database, no event, no layer store. What a run costs beyond this is what
Contree adds. It can also boot from cold.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import PciAddress
from contree.adapters.microvm.agent.frames import FrameDecoder
from contree.adapters.microvm.agent.messages import (
    Captured,
    Configured,
    Exited,
    GuestFrame,
    Ready,
    Spawned,
)
from contree.adapters.microvm.boot.assets import GuestAssets
from contree.adapters.microvm.disks.layers_disk import write_layers_disk
from contree.adapters.microvm.disks.scratch_disk import copy_sparsely
from contree.adapters.microvm.hypervisor.connection import MACHINE
from contree.adapters.microvm.hypervisor.domain_xml import (
    CPU_WITHOUT,
    CPUID_LEAVES,
    KERNEL_COMMAND_LINE,
    LAYERS_SLOT,
    SCRATCH_SLOT,
)
from contree.adapters.microvm.hypervisor.migration import load_state
from contree.adapters.microvm.templates.template import Template
from contree.app.images.layer_store import FilePart
from contree.programs import QEMU

PATIENCE_S = 120.0
READ_BYTES = 1024**2
CAPTURE_BYTES_MAX = 12 * 1024**3
PATH_ENV = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Frame = TypeVar("Frame", bound=GuestFrame)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSetup:
    """What every raw guest is made of. `layers` are squashfs images, bottom to top.

    template   what a guest is restored from, the service's own; None boots from cold
    """

    assets: GuestAssets
    layers: Sequence[Sequence[FilePart]]
    blank_scratch: Path
    memory_mib: int
    accelerator: str
    template: Template | None = None


@dataclass(slots=True)
class Phases:
    """Seconds since QEMU was started, when each step was done.

    created_s   QEMU's monitor answers; the state of a clone is loaded
    cpu_s       user and system time of QEMU in all, once it has ended
    """

    created_s: float = 0.0
    ready_s: float = 0.0
    configured_s: float = 0.0
    spawned_s: float = 0.0
    exited_s: float = 0.0
    captured_s: float = 0.0
    cpu_s: float = 0.0


class RawGuest:
    """One guest over two blocking sockets."""

    def __init__(
        self,
        setup: RawSetup,
        *,
        began: float,
        pid: int,
        control: socket.socket,
        data: socket.socket,
    ) -> None:
        self.pid = pid
        self.phases = Phases()
        self._began = began
        self._setup = setup
        self._control = control
        self._data = data
        self._decoder = FrameDecoder()
        self._frames: list[GuestFrame] = []

    def create(self, monitor: RawMonitor) -> None:
        """Return when QEMU is there; a clone runs from then on."""
        self._control.sendall(commands.hello())  # lies there when the guest wakes up
        monitor.greet()
        if self._setup.template is not None:
            state = self._setup.template.state.open_again()
            try:
                load_state(monitor, state)
            finally:
                os.close(state)
            monitor.execute("cont")  # it was stopped when it was saved
        self.phases.created_s = self._elapsed()

    def start(self) -> None:
        """Return once the guest has its disks mounted, as `MicroVM.start` does."""
        self._next(Ready)
        self.phases.ready_s = self._elapsed()
        request = commands.Configure(
            entropy=os.urandom(commands.ENTROPY_BYTES),
            realtime_ns=time.time_ns(),
            boot_id=uuid.uuid4().bytes,  # noqa: TID251 - not an id of ours
            hostname="raw",
            layer_count=len(self._setup.layers),
            layers_disk=PciAddress(slot=LAYERS_SLOT),
            scratch_disk=PciAddress(slot=SCRATCH_SLOT),
        )
        self._ask(commands.configure(request), Configured)
        self.phases.configured_s = self._elapsed()

    def spawn(
        self, *argv: bytes, stdin_open: bool = False, stdout_cap_bytes: int = 1024**2
    ) -> None:
        """Start a command as root and return when exec has succeeded."""
        request = commands.Spawn(
            spid=1,
            uid=0,
            gid=0,
            stdin_open=stdin_open,
            timeout_ms=0,
            stdout_cap_bytes=stdout_cap_bytes,
            stderr_cap_bytes=1024**2,
            cwd=b"/",
            argv=argv,
            env=[PATH_ENV],
        )
        self._ask(commands.spawn(request), Spawned)
        self.phases.spawned_s = self._elapsed()

    def run(self, *argv: bytes) -> int:
        """Return the command's exit code."""
        self.spawn(*argv)
        code = self._next(Exited).code
        self.phases.exited_s = self._elapsed()
        return code

    def capture(self, write: Callable[[bytes], object]) -> int:
        """Pull the tar of what was written; return its size in bytes."""
        self._control.sendall(commands.capture(CAPTURE_BYTES_MAX))
        received, expected = 0, None
        while expected is None or received < expected:
            readable, _, _ = select.select([self._control, self._data], [], [], PATIENCE_S)
            if self._data in readable:
                piece = self._data.recv(READ_BYTES)
                write(piece)
                received += len(piece)
            else:
                self._receive("capture")
            captured = self._found(Captured)
            expected = None if captured is None else captured.size_bytes
        self.phases.captured_s = self._elapsed()
        return received

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _ask(self, frame: bytes, answer: type[Frame]) -> Frame:
        self._control.sendall(frame)
        return self._next(answer)

    def _next(self, kind: type[Frame]) -> Frame:
        """Wait for the first frame of this kind; every frame comes once in these conversations."""
        while (frame := self._found(kind)) is None:
            self._receive(kind.__name__)
        return frame

    def _found(self, kind: type[Frame]) -> Frame | None:
        return next((frame for frame in self._frames if isinstance(frame, kind)), None)

    def _receive(self, awaited: str) -> None:
        self._control.settimeout(PATIENCE_S)
        data = self._control.recv(READ_BYTES)
        if not data:
            raise ConnectionError(f"the guest hung up while {awaited} was awaited")
        self._frames += self._decoder.feed(data)


class RawMonitor:
    """QMP over a socket that is connected to QEMU. See `migration.Monitor`."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(PATIENCE_S)
        self._lines = end.makefile("rb")

    def greet(self) -> None:
        """Wait for QEMU's greeting and leave negotiation mode; QEMU's qmp-spec.txt."""
        self._read()
        self.execute("qmp_capabilities")

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None
    ) -> Any:
        message = json.dumps({"execute": command, "arguments": dict(arguments or {})}).encode()
        socket.send_fds(self._end, [message], [] if fd is None else [fd])
        while "return" not in (answer := self._read()):
            if "error" in answer:
                raise ConnectionError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def close(self) -> None:
        self._lines.close()
        self._end.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("QEMU's monitor closed")
        answer: dict[str, Any] = json.loads(line)
        return answer


Guest = TypeVar("Guest", bound=RawGuest)


@contextmanager
def raw_guest(directory: Path, setup: RawSetup) -> Iterator[RawGuest]:
    """As `raw_guest_of`, the plain kind."""
    with raw_guest_of(RawGuest, directory, setup) as guest:
        yield guest


@contextmanager
def raw_guest_of(kind: type[Guest], directory: Path, setup: RawSetup) -> Iterator[Guest]:
    """Make the disks, then start the clock and QEMU; kill it at the end.

    `directory` must be empty.
    """
    layers_disk = write_layers_disk(directory, setup.layers)
    scratch = directory / "scratch.img"
    blank = setup.blank_scratch if setup.template is None else setup.template.scratch
    copy_sparsely(blank, scratch)
    with ExitStack() as stack:
        ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        for end in (*ours, *theirs):
            stack.callback(end.close)
        guest_control, guest_data, qmp = ours
        command = qemu_command(
            directory, setup, layers_disk=layers_disk, scratch=scratch,
            agent_fd=theirs[0].fileno(), data_fd=theirs[1].fileno(), monitor_fd=theirs[2].fileno(),
        )  # fmt: skip
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[end.fileno() for end in theirs]
        )
        guest = kind(setup, began=began, pid=process.pid, control=guest_control, data=guest_data)
        stack.callback(_reap, process, guest.phases)
        for end in theirs:
            end.close()
        monitor = RawMonitor(qmp)
        stack.callback(monitor.close)
        guest.create(monitor)
        yield guest


def _reap(process: subprocess.Popen[bytes], phases: Phases) -> None:
    """Kill QEMU and note the CPU time it took."""
    process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    phases.cpu_s = usage.ru_utime + usage.ru_stime


def _cpu(accelerator: str) -> list[str]:
    """Return the arguments that give a guest the CPU of `domain_xml`."""
    without = [f"{name}=off" for name in CPU_WITHOUT[accelerator]]
    if accelerator == "kvm":
        return ["-cpu", ",".join(["host", *without, "pmu=off"])]
    return ["-cpu", ",".join(["max", *without]), *CPUID_LEAVES]


def qemu_command(
    directory: Path,
    setup: RawSetup,
    *,
    layers_disk: Path,
    scratch: Path,
    agent_fd: int,
    data_fd: int,
    monitor_fd: int,
) -> list[str]:
    """Return the argument vector: the devices of `domain_xml`, in its slots.

    A clone runs as soon as its state is loaded: there is no `-S`.
    """
    template, size = setup.template, f"size={setup.memory_mib}M"
    if template is None:
        backend = f"memory-backend-memfd,id=ram,{size},share=on"
        kernel, initrd, incoming = setup.assets.kernel, setup.assets.initramfs, []
    else:
        backend = f"memory-backend-file,id=ram,{size},mem-path={template.memory_file},share=off"
        kernel, initrd, incoming = template.kernel, template.initrd, ["-incoming", "defer"]
    return [
        QEMU.path(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"{MACHINE},accel={setup.accelerator},usb=off,memory-backend=ram",
        "-object", backend,
        *_cpu(setup.accelerator), "-m", str(setup.memory_mib),
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_COMMAND_LINE,
        "-serial", f"file:{directory / 'console.log'}",
        "-chardev", f"socket,id=monitor,fd={monitor_fd}",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci,id=ports,addr=0x4",
        "-chardev", f"socket,id=agent,fd={agent_fd}",
        "-device", "virtserialport,bus=ports.0,nr=1,chardev=agent,name=agent",
        "-chardev", f"socket,id=data,fd={data_fd}",
        "-device", "virtserialport,bus=ports.0,nr=2,chardev=data,name=data",
        "-drive", f"if=none,id=layers,format=vmdk,cache=unsafe,readonly=on,file={layers_disk}",
        "-device", f"virtio-blk-pci,drive=layers,addr={LAYERS_SLOT:#x}",
        "-drive", f"if=none,id=scratch,format=raw,cache=unsafe,file={scratch}",
        "-device", f"virtio-blk-pci,drive=scratch,addr={SCRATCH_SLOT:#x}",
        *incoming,
    ]  # fmt: skip
