"""`app.content.archives.Archives`: archives taken apart on the host, into nothing but entries.

The archive is put into a nameless file first, since a zip is read from its end. Threads then read
it a step at a time, so that a slow consumer holds no thread.
"""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from contree.adapters.layers.unpacking.limits import Account
from contree.adapters.layers.unpacking.tar_archive import tar_items
from contree.adapters.layers.unpacking.zip_archive import MAGICS, zip_items
from contree.app.content.archives import ArchiveEntry
from contree.domain.errors import StorageFullError

T = TypeVar("T")
_Item = ArchiveEntry | bytes

_STEP_BYTES: Final = 256 * 1024
_STEP_ITEMS: Final = 512
"""Read at once, in a thread."""

_MAGIC_BYTES: Final = 4
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class ArchiveUnpacker:
    """`directory` has the room for archives that are being unpacked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def entries(
        self, content: AsyncIterator[bytes], *, bytes_max: int
    ) -> AsyncGenerator[ArchiveEntry | bytes, None]:
        with await _to_its_end(self._spool) as spool:
            async for piece in content:
                await _to_its_end(partial(_write, spool, piece))
            items = _items(spool, Account(bytes_max))
            while step := await _to_its_end(partial(_step, items)):
                for item in step:
                    yield item

    def _spool(self) -> BinaryIO:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.TemporaryFile(dir=self._directory)


def _write(spool: BinaryIO, data: bytes) -> None:
    try:
        spool.write(data)
        spool.flush()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError("there is no room for an archive to unpack") from error
        raise


def _items(spool: BinaryIO, account: Account) -> Iterator[_Item]:
    spool.seek(0)
    is_zip = spool.read(_MAGIC_BYTES) in MAGICS
    spool.seek(0)
    found = zip_items(spool) if is_zip else tar_items(spool, bytes_max=account.bytes_max)
    for item in found:
        if isinstance(item, ArchiveEntry):
            account.add(item)
        yield item


def _step(items: Iterator[_Item]) -> list[_Item]:
    """Return some of what comes next, nothing at the end. Raises LayerRefused."""
    step: list[_Item] = []
    held = 0
    for item in items:
        step.append(item)
        held += len(item) if isinstance(item, bytes) else 0
        if held >= _STEP_BYTES or len(step) >= _STEP_ITEMS:
            break
    return step


async def _to_its_end(work: Callable[[], T]) -> T:
    """Run blocking work; a cancelled caller waits too, since the file is closed next."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
