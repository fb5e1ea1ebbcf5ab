"""The floor: a bare QEMU that boots the guest a worker would boot, without libvirt and server.

Same kernel, initramfs, kernel command line, devices, disks and agent protocol; no database, no
event, no layer store. What a run costs beyond this is what Contree adds.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from contree.adapters.microvm import commands
from contree.adapters.microvm.assets import GuestAssets
from contree.adapters.microvm.commands import PciAddress
from contree.adapters.microvm.connection import EMULATOR, MACHINE
from contree.adapters.microvm.domain_xml import (
    AGENT_SOCKET,
    DATA_SOCKET,
    KERNEL_COMMAND_LINE,
    LAYERS_SLOT,
    SCRATCH_SLOT,
)
from contree.adapters.microvm.frames import FrameDecoder
from contree.adapters.microvm.layers_disk import write_layers_disk
from contree.adapters.microvm.messages import (
    Captured,
    Configured,
    Exited,
    GuestFrame,
    Ready,
    Spawned,
)

PATIENCE_S = 120.0
READ_BYTES = 1024**2
CAPTURE_BYTES_MAX = 12 * 1024**3
PATH_ENV = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Frame = TypeVar("Frame", bound=GuestFrame)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSetup:
    """What every raw guest boots. `layers` are squashfs files, bottom to top."""

    assets: GuestAssets
    layers: Sequence[Path]
    blank_scratch: Path
    memory_mib: int
    accelerator: str


@dataclass(slots=True)
class Phases:
    """Seconds since QEMU was started, when each step was done."""

    connected_s: float = 0.0
    ready_s: float = 0.0
    configured_s: float = 0.0
    spawned_s: float = 0.0
    exited_s: float = 0.0
    captured_s: float = 0.0


class RawGuest:
    """One guest over two blocking sockets."""

    def __init__(self, directory: Path, setup: RawSetup, pid: int, began: float) -> None:
        self.pid = pid
        self._began = began
        self.phases = Phases()
        self._setup = setup
        self._control = _connect(directory / AGENT_SOCKET)
        self._data = _connect(directory / DATA_SOCKET)
        self.phases.connected_s = self._elapsed()
        self._decoder = FrameDecoder()
        self._frames: list[GuestFrame] = []

    def close(self) -> None:
        self._control.close()
        self._data.close()

    def start(self) -> None:
        """Return once the guest has its disks mounted, as `MicroVM.start` does."""
        self._ask(commands.hello(), Ready)
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


Guest = TypeVar("Guest", bound=RawGuest)


@contextmanager
def raw_guest(directory: Path, setup: RawSetup) -> Iterator[RawGuest]:
    """As `raw_guest_of`, the plain kind."""
    with raw_guest_of(RawGuest, directory, setup) as guest:
        yield guest


@contextmanager
def raw_guest_of(kind: type[Guest], directory: Path, setup: RawSetup) -> Iterator[Guest]:
    """Make the disks, then start the clock and QEMU; kill it at the end.

    `directory` must be empty and its path short: sockets are made in it.
    """
    layers_disk = write_layers_disk(directory, setup.layers)
    scratch = directory / "scratch.img"
    subprocess.run(["cp", "--sparse=always", setup.blank_scratch, scratch], check=True)
    began = time.monotonic()
    process = subprocess.Popen(
        qemu_command(directory, setup, layers_disk=layers_disk, scratch=scratch),
        stdin=subprocess.DEVNULL,
    )
    with ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.kill)
        guest = kind(directory, setup, process.pid, began)
        stack.callback(guest.close)
        yield guest


def qemu_command(
    directory: Path, setup: RawSetup, *, layers_disk: Path, scratch: Path
) -> list[str]:
    """Return the argument vector: the devices of `domain_xml`, in its slots."""
    return [
        EMULATOR, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"{MACHINE},accel={setup.accelerator},usb=off,memory-backend=ram",
        "-object", f"memory-backend-memfd,id=ram,size={setup.memory_mib}M,share=on",
        "-cpu", "host" if setup.accelerator == "kvm" else "max", "-m", str(setup.memory_mib),
        "-kernel", str(setup.assets.kernel), "-initrd", str(setup.assets.initramfs),
        "-append", KERNEL_COMMAND_LINE,
        "-serial", f"file:{directory / 'console.log'}",
        "-device", "virtio-serial-pci,id=ports,addr=0x4",
        "-chardev", f"socket,id=agent,path={directory / AGENT_SOCKET},server=on,wait=off",
        "-device", "virtserialport,bus=ports.0,chardev=agent,name=agent",
        "-chardev", f"socket,id=data,path={directory / DATA_SOCKET},server=on,wait=off",
        "-device", "virtserialport,bus=ports.0,chardev=data,name=data",
        "-drive", f"if=none,id=layers,format=vmdk,cache=unsafe,readonly=on,file={layers_disk}",
        "-device", f"virtio-blk-pci,drive=layers,addr={LAYERS_SLOT:#x}",
        "-drive", f"if=none,id=scratch,format=raw,cache=unsafe,file={scratch}",
        "-device", f"virtio-blk-pci,drive=scratch,addr={SCRATCH_SLOT:#x}",
    ]  # fmt: skip


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(str(path))
        except OSError:
            end.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return end
