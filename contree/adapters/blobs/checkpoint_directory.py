"""Checkpoints in a directory (app.proof.checkpoint_store.CheckpointStore), one file each.

A file is written and synced without a name, then linked: it is there whole or not at all, and a
name that is taken is never taken again. Best on another disk or host than the database's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contree.adapters.blobs.checkpoint_names import name_of, size_in
from contree.adapters.blobs.spool import Spool
from contree.app.proof.checkpoint_store import CheckpointExistsError
from contree.domain.errors import NotFoundError, StorageFullError, UnavailableError


class DirectoryCheckpointStore:
    """The directory is made at the first checkpoint."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, size: int, note: bytes) -> None:
        await asyncio.to_thread(self._put, size, note)

    async def read(self, size: int) -> bytes:
        return await asyncio.to_thread(self._read, size)

    async def sizes(self, *, after: int = -1) -> Sequence[int]:
        return await asyncio.to_thread(self._sizes, after)

    def _put(self, size: int, note: bytes) -> None:
        with self._reachable():
            self._root.mkdir(parents=True, exist_ok=True)
            with Spool(self._root) as spool:
                spool.write(note)
                spool.keep(self._root / name_of(size))
        if self._read(size) != note:
            raise CheckpointExistsError(f"there is another checkpoint over {size} events")

    def _read(self, size: int) -> bytes:
        try:
            with self._reachable():
                return (self._root / name_of(size)).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError("checkpoint", size) from error

    def _sizes(self, after: int) -> list[int]:
        try:
            with self._reachable():
                found = (size_in(path.name) for path in self._root.iterdir())
                return sorted(size for size in found if size is not None and size > after)
        except FileNotFoundError:
            return []

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except StorageFullError as error:
            raise StorageFullError(f"there is no room in '{self._root}'") from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnavailableError(f"the checkpoints in '{self._root}': {error}") from error
