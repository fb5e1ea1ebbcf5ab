"""Chunks from outside into a local file, hashed on the way; gone again unless it is kept.

A spool has no name in the filesystem (O_TMPFILE) until `keep`, so a killed process leaves nothing
behind. Where the filesystem cannot do that (overlayfs before Linux 6.3), it has a name in `.spool/`
and a lock (flock), and `sweep` removes what has no owner any more. Small chunks are gathered, so
that one hop to a thread moves about a MiB.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from contree.adapters.blobs.digests import too_large
from contree.domain.errors import StorageFullError

_GATHER_BYTES: Final = 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
_NAMED: Final = ".spool"


@contextmanager
def storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError("the content store has no room; nothing was kept") from error
        raise


class Spool:
    """An unfinished file on the filesystem of `directory`; use as a context manager."""

    def __init__(self, directory: Path, *, nameless: bool = True) -> None:
        self._name: Path | None = None
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        with storage_errors():
            self.descriptor = self._nameless(directory) if nameless else self._named(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._name is not None:
            self._name.unlink(missing_ok=True)
        os.close(self.descriptor)

    def _nameless(self, directory: Path) -> int:
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            return self._named(directory)

    def _named(self, directory: Path) -> int:
        parent = directory / _NAMED
        parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._name = Path(name)
        return descriptor

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def fill(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> None:
        """Write all chunks. Raises LimitExceededError, StorageFullError, and what `chunks` does."""
        gathered: list[bytes] = []
        held = 0
        async for chunk in chunks:
            gathered.append(chunk)
            held += len(chunk)
            if self.size_bytes + held > bytes_max:
                raise too_large(bytes_max)
            if held >= _GATHER_BYTES:
                await uninterrupted(partial(self.write, b"".join(gathered)))
                gathered, held = [], 0
        await uninterrupted(partial(self.write, b"".join(gathered)))

    def write(self, data: bytes) -> None:
        """Append. Blocking."""
        self._digest.update(data)
        left = memoryview(data)
        with storage_errors():
            while left:
                left = left[os.write(self.descriptor, left) :]
        self.size_bytes += len(data)

    def keep(self, target: Path) -> None:
        """Give the file its name, durably; a file already there holds the same. Blocking."""
        with storage_errors():
            os.fsync(self.descriptor)
            target.parent.mkdir(exist_ok=True)
            try:
                # With a directory given, Python calls linkat(2) with AT_SYMLINK_FOLLOW: it is not
                # the link in /proc that gets a second name, but the file.
                source = self._name or f"/proc/self/fd/{self.descriptor}"
                os.link(source, target, src_dir_fd=self.descriptor)
            except FileExistsError:
                return
            for directory in (target.parent, target.parent.parent):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def sweep(directory: Path) -> int:
    """Remove named spools whose process is gone; return how many. Blocking."""
    removed = 0
    parent = directory / _NAMED
    for path in list(parent.iterdir()) if parent.is_dir() else []:
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


async def uninterrupted(work: Callable[[], None]) -> None:
    """Run blocking work in a thread; a cancelled caller waits, since the file is closed next."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
