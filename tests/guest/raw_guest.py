"""Boots the agent in a bare QEMU, without libvirt: the guest protocol's own end-to-end test bed.

Disks as in production (one GPT disk whose partitions are the squashfs layers, one ext4 scratch
disk), but made by the system's tools, so that nothing of the runner is needed here.
"""

import os
import random
import shutil
import struct
import subprocess
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.commands import Configure, PciAddress
from tests.guest.session import Session, connect

LAYERS_SLOT = 5
SCRATCH_SLOT = 6
SECTOR_BYTES = 512
LEAD_SECTORS = 64  # MBR, GPT header and up to 200 entries, 4 KiB aligned
CMDLINE = (
    "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 mitigations=off cryptomgr.notests acpi=noirq"
)


def gpt_disk(layers: Sequence[bytes]) -> bytes:
    """Return a disk whose partition i+1 is layers[i]. UEFI specification 2.10, chapter 5."""
    entries, first, body = b"", LEAD_SECTORS, b""
    for i, layer in enumerate(layers):
        padded = layer + bytes(-len(layer) % 4096)
        size = len(padded) // SECTOR_BYTES
        entries += uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
        entries += uuid.UUID(int=i + 1).bytes_le
        entries += struct.pack("<QQQ", first, first + size - 1, 0) + bytes(72)
        first += size
        body += padded
    count = max(128, len(layers))
    entries = entries.ljust(count * 128, b"\0")
    entry_sectors = -(-len(entries) // SECTOR_BYTES)
    total = first + entry_sectors + 1

    def header(here: int, other: int, entries_at: int) -> bytes:
        head = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, LEAD_SECTORS,
            first - 1, b"\1" * 16, entries_at, count, 128, zlib.crc32(entries),
        )  # fmt: skip
        head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
        return head.ljust(SECTOR_BYTES, b"\0")

    mbr = bytearray(SECTOR_BYTES)
    mbr[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, total - 1)
    mbr[510:512] = b"\x55\xaa"
    lead = (bytes(mbr) + header(1, total - 1, 2) + entries).ljust(
        LEAD_SECTORS * SECTOR_BYTES, b"\0"
    )
    tail = entries.ljust(entry_sectors * SECTOR_BYTES, b"\0") + header(total - 1, 1, first)
    return lead + body + tail


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
        ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", str(path)], check=True
    )


@dataclass(slots=True, kw_only=True)
class RawGuest:
    """A booted guest: its session, its QEMU, and where the sockets and the console log are."""

    session: Session
    process: subprocess.Popen[bytes]
    directory: Path

    def connect(self) -> Session:
        """Connect as a host that has just arrived."""
        return Session(
            connect(str(self.directory / "control.sock")),
            connect(str(self.directory / "data.sock")),
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
    """Boot a guest with these squashfs layers, bottom first; kill it at the end."""
    disk, scratch = directory / "layers.img", directory / "scratch.img"
    disk.write_bytes(gpt_disk([layer.read_bytes() for layer in layers]))
    make_scratch(scratch, scratch_bytes)
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None
    control, data = directory / "control.sock", directory / "data.sock"
    process = subprocess.Popen(
        [
            qemu, "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256", "-nodefaults",
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
            yield RawGuest(session=session, process=process, directory=directory)
    finally:
        process.kill()
        process.wait()
