"""Takes layers out of a LayerDirectory, and with them what was derived of them.

    <root>/.removed/<hex>    set aside: out of use, not yet destroyed

Setting aside is a rename, so that it can be taken back. Other processes may still have a file open:
its bytes are cut off first, and an index, which has names and no contents, ends with its reader.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from contree.adapters.layers.digests import hex_of
from contree.adapters.layers.mounts.merged_layers import MERGED_NAME
from contree.adapters.layers.mounts.unused import covering
from contree.adapters.layers.store import TAR_NAME
from contree.app.images.layer_store import RemovedLayers

REMOVED_NAME: Final = ".removed"
LOOK_AGAIN_S: Final = 0.1
"""How often who waits for another pass looks."""

_DIFF_ID_PREFIX: Final = "sha256:"
_WITH_CONTENT: Final = (TAR_NAME, "*.squashfs")


class LayerRemovals:
    """Implements LayerRemoval over the store in `root`; `search_root` is what searches derive."""

    def __init__(self, root: Path, search_root: Path) -> None:
        self._root = root
        self._search_root = search_root

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        descriptor = await asyncio.to_thread(self._open)
        try:
            while not _locked(descriptor):  # noqa: ASYNC110 - other processes tell nobody
                await asyncio.sleep(LOOK_AGAIN_S)
            yield
        finally:
            os.close(descriptor)

    async def set_aside(self, diff_id: str, *, added_before: datetime) -> bool:
        return await asyncio.to_thread(self._set_aside, hex_of(diff_id), added_before)

    async def put_back(self, diff_id: str) -> None:
        await asyncio.to_thread(self._put_back, hex_of(diff_id))

    async def is_there(self, diff_id: str) -> bool:
        return (self._root / hex_of(diff_id)).exists()

    async def aside(self) -> Sequence[str]:
        return await asyncio.to_thread(self._aside)

    async def destroy(self, diff_ids: Sequence[str]) -> RemovedLayers:
        return await asyncio.to_thread(self._destroy, [hex_of(diff_id) for diff_id in diff_ids])

    # -- in threads ---------------------------------------------------------------------------

    def _open(self) -> int:
        """The directory of what is set aside, whose lock goes with the descriptor."""
        directory = self._root / REMOVED_NAME
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def _set_aside(self, digest: str, added_before: datetime) -> bool:
        layer, aside = self._root / digest, self._root / REMOVED_NAME / digest
        try:
            if _added_at(layer) >= added_before:
                return False
            aside.parent.mkdir(exist_ok=True)
            layer.rename(aside)
        except FileNotFoundError:
            return False
        # Whoever found it there has said so by its time; whoever comes now does not find it.
        if _added_at(aside) >= added_before:
            self._put_back(digest)
            return False
        return True

    def _put_back(self, digest: str) -> None:
        aside = self._root / REMOVED_NAME / digest
        try:
            aside.rename(self._root / digest)
        except FileNotFoundError:
            return
        except OSError:  # it was added again meanwhile: that one is as good
            shutil.rmtree(aside, ignore_errors=True)

    def _aside(self) -> list[str]:
        directory = self._root / REMOVED_NAME
        found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        return [_DIFF_ID_PREFIX + name for name in found]

    def _destroy(self, digests: Sequence[str]) -> RemovedLayers:
        layer_count = layer_bytes = 0
        for digest in digests:
            aside = self._root / REMOVED_NAME / digest
            with suppress(FileNotFoundError):
                layer_bytes += (aside / TAR_NAME).stat().st_size
                layer_count += 1
            _destroy_directory(aside)
            if self._search_root.is_dir():
                for boot in self._search_root.iterdir():
                    shutil.rmtree(boot / digest, ignore_errors=True)
        for directory in covering(self._root / MERGED_NAME, frozenset(digests)):
            _destroy_directory(directory)
        return RemovedLayers(layer_count=layer_count, layer_bytes=layer_bytes)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _destroy_directory(directory: Path) -> None:
    for pattern in _WITH_CONTENT:
        for path in directory.glob(pattern):
            with suppress(FileNotFoundError):
                os.truncate(path, 0)
    shutil.rmtree(directory, ignore_errors=True)


def _added_at(layer: Path) -> datetime:
    return datetime.fromtimestamp(layer.stat().st_mtime, UTC)
