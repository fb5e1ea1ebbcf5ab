"""Boots the agent in a bare QEMU, without libvirt: the guest protocol's own end-to-end test bed.

Disks as in production (one with the squashfs layers, one ext4 scratch disk), but made by the system's tools, so that nothing of the runner is needed here.
"""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.agent.commands import LAYER_ROOM_BYTES, Configure, PciAddress
from contree.programs import MKE2FS, QEMU
from tests.guest.session import Session, connect

LAYERS_SLOT = 5
SCRATCH_SLOT = 6
CMDLINE = (
    "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 mitigations=off cryptomgr.notests acpi=noirq"
)


def write_layers(path: Path, layers: Sequence[Path]) -> None:
    """Make `path` a sparse disk with layers[i] where the protocol has layer i."""
    with path.open("wb") as disk:
        disk.truncate((len(layers) + 1) * LAYER_ROOM_BYTES)
        for number, layer in enumerate(layers, start=1):
            disk.seek(number * LAYER_ROOM_BYTES)
            disk.write(layer.read_bytes())


def configuration(layer_count: int, hostname: str = "guest") -> Configure:
    return Configure(
        entropy=os.urandom(32),
        realtime_ns=time.time_ns(),
        boot_id=random.randbytes(16),
        hostname=hostname,
        layer_count=layer_count,
        layers_disk=PciAddress(slot=LAYERS_SLOT),
        scratch_disk=PciAddress(slot=SCRATCH_SLOT),
    )


def make_scratch(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(
        [MKE2FS.path(), "-q", "-F", "-O", "^has_journal", "-m", "0", str(path)], check=True
    )


@dataclass(slots=True, kw_only=True)
class RawGuest:
    """A booted guest: its session, its QEMU, and where the sockets and the console log are."""

    session: Session
    process: subprocess.Popen[bytes]
    directory: Path
    sockets: Path

    def connect(self) -> Session:
        """Connect as a host that has just arrived."""
        return Session(
            connect(str(self.sockets / "control.sock")),
            connect(str(self.sockets / "data.sock")),
        )

    def console(self) -> str:
        return (self.directory / "console.log").read_text(errors="replace")


@contextmanager
def boot(
    directory: Path,
    *,
    kernel: Path,
    initramfs: Path,
    layers: Sequence[Path],
    scratch_bytes: int = 512 << 20,
    extra: Sequence[str] = (),
) -> Iterator[RawGuest]:
    """Boot a guest with these squashfs layers, bottom first; kill it at the end.

    Its disks are in `directory`, its sockets where their paths are short.
    """
    disk, scratch = directory / "layers.img", directory / "scratch.img"
    write_layers(disk, layers)
    make_scratch(scratch, scratch_bytes)
    short = Path(tempfile.mkdtemp(prefix="raw-", dir="/tmp"))
    control, data = short / "control.sock", short / "data.sock"
    process = subprocess.Popen(
        [
            QEMU.path(), "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(kernel),
            "-initrd", str(initramfs), "-append", CMDLINE,
            "-serial", f"file:{directory / 'console.log'}",
            "-device", "virtio-serial-pci,id=vs,addr=0x4",
            "-chardev", f"socket,id=agent,path={control},server=on,wait=off",
            "-device", "virtserialport,bus=vs.0,chardev=agent,name=agent",
            "-chardev", f"socket,id=data,path={data},server=on,wait=off",
            "-device", "virtserialport,bus=vs.0,chardev=data,name=data",
            "-drive", f"if=none,id=l,format=raw,readonly=on,file={disk}",
            "-device", f"virtio-blk-pci,drive=l,addr={LAYERS_SLOT:#x}",
            "-drive", f"if=none,id=s,format=raw,cache=unsafe,file={scratch}",
            "-device", f"virtio-blk-pci,drive=s,addr={SCRATCH_SLOT:#x}",
            *extra,
        ]
    )  # fmt: skip
    try:
        with Session(connect(str(control)), connect(str(data))) as session:
            yield RawGuest(
                session=session, process=process, directory=directory, sockets=short
            )
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(short)
