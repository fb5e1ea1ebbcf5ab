"""The runtime directory: who has it, where guests lie, how libvirt is reached from it.

    RUNTIME/lock        held while a process uses it
    RUNTIME/libvirt/    the embedded libvirt's own
    RUNTIME/vm/ID/      one guest's sockets and disk descriptor
    SCRATCH/KEY/ID.img  its scratch disk: not in RUNTIME, which may well be in memory

One process at a time holds it (flock), so whatever a holder finds in it is its own or an earlier
process's, and may be ended. With a libvirt of our own inside, QEMUs of an earlier process are
killed before libvirt sees them: it would reconnect to each, and wait for those that hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from contree.adapters.microvm.hypervisor import embedded, qemu_process
from contree.adapters.microvm.hypervisor.capability_filter import usable_filter
from contree.adapters.microvm.hypervisor.connection import LibvirtConnection
from contree.adapters.microvm.hypervisor.domain_xml import CONSOLE_SOCKET
from contree.domain.errors import GuestFailure

KILL_TIMEOUT_S = 10.0
_KILL_POLL_S = 0.05
_EMBED_PATH = "/embed"
_KEY_CHARS = 8
_ID_CHARS = 16  # of the run id: unique enough in one directory, short enough for a socket path

log = logging.getLogger(__name__)


class RuntimeDir:
    """`path` and what belongs to it below `scratch`, a directory that several may share.

    `uri` None or qemu:///embed means a libvirt of our own.
    """

    def __init__(self, path: Path, *, scratch: Path, uri: str | None) -> None:
        self._path = path.absolute()
        key = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:_KEY_CHARS]
        self._scratch = scratch.absolute() / f"live-{key}"
        self._guests = self._path / "vm"
        self._uri = uri
        self._lock_fd = -1
        self._embed_root = _embed_root(uri, self._path / "libvirt")
        longest = self._guests / ("f" * _ID_CHARS) / CONSOLE_SOCKET
        if len(os.fsencode(longest)) > embedded.UNIX_PATH_BYTES_MAX:
            raise GuestFailure(
                f"runtime directory {self._path}: socket paths in it would be longer than "
                f"{embedded.UNIX_PATH_BYTES_MAX} bytes, choose a shorter one"
            )

    def lock(self) -> None:
        """Make the directory and hold it. Raises GuestFailure when another process does."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._lock_fd = os.open(
                self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(self._lock_fd).st_nlink > 0
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:  # or its holder was just removing it
            self.unlock()
            raise GuestFailure(f"{self._path} is in use by another process")
        self._guests.mkdir(exist_ok=True, mode=0o700)
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    def unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def remove(self) -> None:
        """Remove it with what libvirt keeps in it, and let go; libvirt is closed. Blocks.

        Guests' files that could not be removed keep it: they are the next process's to find.
        """
        if self._lock_fd < 0:
            return
        if self._embed_root is not None:
            embedded.forget(self._embed_root)
        with contextlib.suppress(OSError):
            self._guests.rmdir()
            self._scratch.rmdir()
            shutil.rmtree(self._path / "libvirt", ignore_errors=True)
            (self._path / "lock").unlink()
            self._path.rmdir()
        self.unlock()

    async def connect(self, *, probe_cache: Path) -> LibvirtConnection:
        """Open libvirt. Raises GuestFailure."""
        if self._embed_root is None:
            assert self._uri is not None
            return await LibvirtConnection.open(self._uri)
        await self._end_earlier_guests()
        chosen = await usable_filter(self._path / "trial", probe_cache=probe_cache)
        embedded.prepare(self._embed_root, probe_cache=probe_cache, capability_filter=chosen)
        return await LibvirtConnection.open(embedded.embed_uri(self._embed_root))

    @staticmethod
    def guest_key(run_id: UUID) -> str:
        """Return the ID of the picture above."""
        return run_id.hex[:_ID_CHARS]

    def guest_dir(self, key: str) -> Path:
        return self._guests / key

    def scratch_image(self, key: str) -> Path:
        return self._scratch / f"{key}.img"

    def guest_keys(self) -> set[str]:
        """Return the keys of all guests that have a file, live or left."""
        directories = {entry.name for entry in self._guests.iterdir()}
        return directories | {entry.stem for entry in self._scratch.iterdir()}

    def remove_guest(self, key: str) -> None:
        """Remove every file of a guest whose QEMU is gone. Blocks."""
        shutil.rmtree(self.guest_dir(key), ignore_errors=True)
        self.scratch_image(key).unlink(missing_ok=True)

    def domain_log(self, name: str) -> Path | None:
        return None if self._embed_root is None else embedded.domain_log(self._embed_root, name)

    def pid_file(self, name: str) -> Path | None:
        return None if self._embed_root is None else embedded.pid_file(self._embed_root, name)

    async def _end_earlier_guests(self) -> None:
        marker = f"{self._guests}/"
        if killed := qemu_process.kill_qemus(marker):
            log.warning("killed %d guests of an earlier process", killed)
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                # Not our children, and found by name: there is nothing to be notified by.
                while qemu_process.qemu_pids(marker):  # noqa: ASYNC110 - as said
                    await asyncio.sleep(_KILL_POLL_S)
        except TimeoutError as error:
            raise GuestFailure(f"QEMUs of {self._path} do not end after SIGKILL") from error


def _embed_root(uri: str | None, default: Path) -> Path | None:
    """Return where the embedded libvirt lives, None when `uri` names a daemon's."""
    if uri is None:
        return default
    parts = urlsplit(uri)
    if parts.scheme != "qemu" or parts.path != _EMBED_PATH:
        return None
    root = parse_qs(parts.query).get("root", [str(default)])[0]
    return Path(root).absolute()
