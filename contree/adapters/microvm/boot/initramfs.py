"""Build the guest's initramfs: the agent as /init, the kernel modules it loads, nothing else.

A newc cpio archive (kernel documentation, "initramfs buffer format"), written in pure Python so
that equal inputs give equal bytes on every machine: fixed order, inode numbers, owners and times.
Not compressed: under TCG the guest would decompress slower than it reads. It does not decide which
kernel or modules to use, beyond naming those the agent loads (guest/src/boot.c, MODULES).
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

AGENT_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "squashfs",
    "overlay",
)
"""What the agent loads, in its order; a test holds it to guest/src/boot.c."""

MAX_AGENT_BYTES = 4 * 1024**2
MAX_MODULE_BYTES = 16 * 1024**2

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_CONSOLE_DEVICE = (5, 1)  # so that the agent's last words reach the console


class InitramfsError(Exception):
    """An input of the initramfs is missing or is not what its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def find_modules(kernel_modules_dir: Path) -> tuple[Path, ...]:
    """Return the agent's modules below `kernel_modules_dir` (lib/modules/RELEASE), in load order.

    Raises InitramfsError naming every module that is not there uncompressed, as Debian ships them.
    """
    wanted = {f"{name}.ko": name for name in AGENT_MODULES}
    found: dict[str, Path] = {}
    for directory, _, files in os.walk(kernel_modules_dir):
        for file in files:
            if file in wanted:
                found[wanted[file]] = Path(directory, file)
    missing = [name for name in AGENT_MODULES if name not in found]
    if missing:
        raise InitramfsError(f"{kernel_modules_dir} lacks {', '.join(missing)} (as NAME.ko)")
    return tuple(found[name] for name in AGENT_MODULES)


def build_initramfs(agent: Path, kernel_modules: Sequence[Path], out: Path) -> None:
    """Write the initramfs to `out`, whole or not at all.

    `kernel_modules` are .ko files, at least those of AGENT_MODULES; the agent finds them by file
    name in /modules. Raises InitramfsError for inputs that are not ELF, too large or incomplete,
    OSError when reading or writing fails.
    """
    names = [path.stem for path in kernel_modules]
    missing = [name for name in AGENT_MODULES if name not in names]
    if missing:
        raise InitramfsError(f"kernel modules missing: {', '.join(missing)}")
    if len(set(names)) != len(names):
        raise InitramfsError("two kernel modules have the same name")
    archive = b"".join(_archive(_entries(agent, kernel_modules)))
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(archive)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _entries(agent: Path, kernel_modules: Sequence[Path]) -> Iterator[_Entry]:
    yield _Entry(name="dev", mode=stat.S_IFDIR | 0o755)
    yield _Entry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=_CONSOLE_DEVICE)
    yield _Entry(name="init", mode=stat.S_IFREG | 0o755, data=_elf(agent, MAX_AGENT_BYTES))
    yield _Entry(name="modules", mode=stat.S_IFDIR | 0o755)
    for path in sorted(kernel_modules, key=lambda path: path.name):
        data = _elf(path, MAX_MODULE_BYTES)
        yield _Entry(name=f"modules/{path.name}", mode=stat.S_IFREG | 0o644, data=data)


def _elf(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InitramfsError(f"{path} is larger than {max_bytes} bytes")
    if not data.startswith(b"\x7fELF"):
        raise InitramfsError(f"{path} is not an ELF file")
    return data


def _archive(entries: Iterator[_Entry]) -> Iterator[bytes]:
    inode = 0
    for inode, entry in enumerate(entries, start=1):
        yield from _record(inode, entry)
    yield from _record(inode + 1, _Entry(name=_TRAILER, mode=0))


def _record(inode: int, entry: _Entry) -> Iterator[bytes]:
    """Yield one newc member: header, name and data, each padded to 4 bytes."""
    name = entry.name.encode("ascii") + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        1,  # links
        0,  # mtime
        len(entry.data),
        0,  # device the archive's file is on
        0,
        *entry.device,
        len(name),
        0,  # checksum, unused in newc
    )
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    yield head + bytes(-len(head) % 4)
    yield entry.data + bytes(-len(entry.data) % 4)
