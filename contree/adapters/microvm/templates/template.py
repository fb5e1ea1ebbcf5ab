"""A template: a booted, blank guest as one unit of RAM, device state and what it is valid for.

    TEMPLATES/KEY/ram, state       the guest
                  scratch          its scratch disk, which it has mounted: clones get a copy
                  kernel, initrd   next to nothing, for QEMU to load; the guest's are in its RAM
                  meta.json        digests
    TEMPLATES/KEY.*.partial/       being made; held by flock, swept when nobody holds it

A KEY directory is whole or not there: it is made aside, then renamed.

KEY covers all that a saved state depends on. The files are read once, when a process opens the
template: it then works on sealed copies in memory (sealed_file), and no QEMU ever opens ram or
state again. The digests in meta.json find damage; they are no defence against whoever can write
here, which is who can write to the worker's whole data. It starts no guest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.disks.sealed_file import Holder, SealedFile, copy_pages
from contree.adapters.microvm.hypervisor.domain_xml import DomainSpec, domain_xml

FORMAT_VERSION = 2
"""Part of every key: raise it when what is saved changes though nothing else in the key does."""

TEMPLATES_KEPT = 4
"""Of different keys, the newest: after a change one may want to go back, or two may share this."""

RAM_NAME, STATE_NAME, KERNEL_NAME, INITRD_NAME = "ram", "state", "kernel", "initrd"
SCRATCH_NAME = "scratch"
META_NAME = "meta.json"
_CHECKED = (STATE_NAME, RAM_NAME, KERNEL_NAME, SCRATCH_NAME)
_QEMU_RAM_NAME = "ram.qemu"  # as the template's QEMU left it, before zero pages are taken out
_PARTIAL_SUFFIX = ".partial"
_KEY_CHARS = 32

# Linux, Documentation/arch/x86/boot.rst: real-mode setup, in sectors after the boot sector.
_SETUP_SECTORS_AT = 0x1F1
_SETUP_SECTORS_IF_0 = 4
_SECTOR_BYTES = 512
_STUB_BODY_BYTES = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template that clones can be made of."""

    key: str
    memory: SealedFile
    state: SealedFile
    holder: Holder
    kernel: Path
    initrd: Path
    scratch: Path

    @property
    def memory_file(self) -> Path:
        """Where a QEMU of our user finds the RAM."""
        return self.holder.path

    def close(self) -> None:
        """Let go of the memory; clones that run keep theirs."""
        self.holder.close()
        self.memory.close()
        self.state.close()


class TemplateStore:
    """The templates below `directory`, of which those of `key` are ours."""

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        self._key = key
        self._unit = directory / key

    def load(self) -> Template | None:
        """Return the template, None when there is none; a damaged one is removed. Blocks.

        Raises GuestFailure when it is whole but cannot be used here, OSError.
        """
        try:
            meta = json.loads((self._unit / META_NAME).read_text())
            expected = {name: meta[name] for name in _CHECKED}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            expected = None
        template = None if expected is None else self._open(expected)
        if template is None:
            log.warning("template %s is damaged: removed, and made again", self._unit)
            self.discard()
            return None
        os.utime(self._unit)  # the age that `_prune` goes by
        return template

    @contextmanager
    def partial(self) -> Iterator[Path]:
        """Yield a directory of our own to make a template in; what is left of it is removed."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        made = tempfile.mkdtemp(prefix=f"{self._key}.", suffix=_PARTIAL_SUFFIX, dir=self._directory)
        held = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield Path(made)
        finally:
            os.close(held)
            shutil.rmtree(made, ignore_errors=True)

    @staticmethod
    def ram_in(partial: Path) -> Path:
        """Return the file that the template's QEMU maps."""
        return partial / _QEMU_RAM_NAME

    @staticmethod
    def state_in(partial: Path) -> Path:
        return partial / STATE_NAME

    @staticmethod
    def scratch_in(partial: Path) -> Path:
        return partial / SCRATCH_NAME

    def keep(self, partial: Path, *, kernel: Path) -> None:
        """Make the files in `partial` the template; its QEMU has ended. Blocks. Raises OSError.

        `kernel` is what it booted. A template that is there already stays: two processes may have
        made it at once.
        """
        ram = partial / RAM_NAME
        with ram.open("xb") as file:
            ram_digest = copy_pages(self.ram_in(partial), file.fileno())
        self.ram_in(partial).unlink()
        _write_stubs(kernel, partial)
        meta = {
            "key": self._key,
            RAM_NAME: ram_digest,
            STATE_NAME: _digest(self.state_in(partial)),
            KERNEL_NAME: _digest(partial / KERNEL_NAME),
            SCRATCH_NAME: _digest(self.scratch_in(partial)),
        }
        (partial / META_NAME).write_text(json.dumps(meta, indent=1))
        try:
            partial.rename(self._unit)
        except OSError:
            if not self._unit.exists():
                raise
        self._prune()

    def discard(self) -> None:
        """Remove our template from disk. Blocks."""
        shutil.rmtree(self._unit, ignore_errors=True)

    def _open(self, expected: Mapping[str, str]) -> Template | None:
        """Return the template if its files are what they were when it was made."""
        opened: list[SealedFile] = []
        kernel, initrd = self._unit / KERNEL_NAME, self._unit / INITRD_NAME
        scratch = self._unit / SCRATCH_NAME
        try:
            small = {KERNEL_NAME: kernel, SCRATCH_NAME: scratch}
            if any(_digest(file) != expected[name] for name, file in small.items()):
                return None
            if not initrd.exists():
                return None
            for name in (STATE_NAME, RAM_NAME):
                opened.append(SealedFile.copy_of(self._unit / name))
                if opened[-1].digest != expected[name]:
                    return None
            state, memory = opened
            holder = Holder(memory)
            opened.clear()
        except FileNotFoundError:
            return None
        finally:
            for file in opened:
                file.close()
        return Template(
            key=self._key, memory=memory, state=state, holder=holder,
            kernel=kernel, initrd=initrd, scratch=scratch,
        )  # fmt: skip

    def _sweep(self) -> None:
        """Remove what a process that ended while making a template left."""
        for left in self._directory.glob(f"*{_PARTIAL_SUFFIX}"):
            with contextlib.suppress(OSError):
                fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left)
                finally:
                    os.close(fd)

    def _prune(self) -> None:
        units = [p for p in self._directory.iterdir() if p.suffix != _PARTIAL_SUFFIX]
        units.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in units[TEMPLATES_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _digest(path: Path) -> str:
    """Return the digest of a file of little data as `copy_pages` has it."""
    copy = SealedFile.copy_of(path)
    copy.close()
    return copy.digest


def _write_stubs(kernel: Path, directory: Path) -> None:
    """Write what QEMU wants as kernel and initrd of a clone, which never boots them.

    Whole ones would cost each clone 14 MB and 7 ms. A kernel that begins as the template's does,
    because QEMU makes the same devices for it then.
    """
    with kernel.open("rb") as file:
        sectors = file.read(_SETUP_SECTORS_AT + 1)[-1] or _SETUP_SECTORS_IF_0
        file.seek(0)
        stub = file.read((1 + sectors) * _SECTOR_BYTES + _STUB_BODY_BYTES)
    (directory / KERNEL_NAME).write_bytes(stub)
    (directory / INITRD_NAME).write_bytes(bytes(4))


def template_key(shape: DomainSpec, *, facts: Sequence[str]) -> str:
    """Return the key of templates for guests like `shape`, whose paths must not differ.

    `facts` are what else counts: kernel and initramfs, versions, host, whose they are.
    """
    text = "\n".join([f"format {FORMAT_VERSION}", domain_xml(shape), *facts])
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_CHARS]
