"""How much of a disk a directory takes, measured now and then."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

MEASURED_FOR_S: Final = 30.0
"""A store has three files a layer: looking at each at every scrape would be felt."""

_BLOCK_BYTES: Final = 512  # of st_blocks, whatever the filesystem's


class DiskUse:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._measured: tuple[float, int] | None = None

    def measured(self) -> int:
        """Bytes on disk, not older than MEASURED_FOR_S; what comes and goes meanwhile may count or
        not. Blocking.
        """
        now = time.monotonic()
        if self._measured is None or now - self._measured[0] > MEASURED_FOR_S:
            self._measured = (now, bytes_below(self._root))
        return self._measured[1]


def bytes_below(root: Path) -> int:
    """What the files below `root` take; none when it is not there. Blocking."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * _BLOCK_BYTES  # noqa: PTH118 - many
            except FileNotFoundError:
                continue
    return total
