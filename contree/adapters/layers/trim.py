"""Keeps a host's copies of the fleet's layers within a bound: what was used longest ago goes first.

Only what the fleet has goes, and nothing that was used in the last hour (unused.KEPT_S): so the
bound may be passed for a while. Files that a guest or a download has open stay readable for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contree.adapters.layers.disk_use import bytes_below
from contree.adapters.layers.mounts.merged_layers import MERGED_NAME
from contree.adapters.layers.mounts.unused import is_unused, remove_unused
from contree.adapters.layers.shared import SharedLayers

LOOK_AGAIN_S: Final = 60.0
_DIGEST_CHARS: Final = 64

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class _Piece:
    """A layer, or a merged span (`digest` is None): a directory whose time is its last use."""

    used_at: float
    path: Path
    size_bytes: int
    digest: str | None


class TrimLayers:
    """worker.duties.Duty, of one process a host. `root` is a LayerDirectory's."""

    name = "trim layers"

    def __init__(self, root: Path, shared: SharedLayers, *, bytes_max: int) -> None:
        self._root = root
        self._shared = shared
        self._bytes_max = bytes_max

    async def run(self) -> None:
        """Look again and again. Raises UnavailableError."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> int:
        """Remove what has to go; return how many bytes went."""
        pieces = await asyncio.to_thread(lambda: sorted(_pieces(self._root)))
        surplus = sum(piece.size_bytes for piece in pieces) - self._bytes_max
        removed = 0
        for piece in pieces:
            if removed >= surplus or not is_unused(piece.path):
                break
            if piece.digest is not None and not await self._shared.has(piece.digest):
                continue
            if await asyncio.to_thread(remove_unused, piece.path, self._root):
                removed += piece.size_bytes
        if removed:
            _LOG.info("removed %d MiB of layers that the fleet has", removed // 1024**2)
        return removed


def _pieces(root: Path) -> Iterator[_Piece]:
    for directory in (root, root / MERGED_NAME):
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            continue
        for entry in entries:
            is_layer = directory == root
            if is_layer and len(entry.name) != _DIGEST_CHARS:
                continue
            path = Path(entry.path)
            try:
                used_at = entry.stat().st_mtime
            except FileNotFoundError:
                continue
            digest = entry.name if is_layer else None
            yield _Piece(used_at, path, bytes_below(path), digest)
