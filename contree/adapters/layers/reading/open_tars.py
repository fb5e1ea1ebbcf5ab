"""The tars of an image's layers, opened when their content is wanted, never too many at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

OPEN_TARS_MAX: Final = 64
"""Descriptors that one reader holds; an image may have thousands of layers."""


class OpenTars:
    """Descriptors by number of the layer, the oldest closed when there are too many."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}

    def descriptor(self, layer: int) -> int:
        """Return a descriptor, to be used before the next call."""
        found = self._open.get(layer)
        if found is None:
            if len(self._open) >= OPEN_TARS_MAX:
                os.close(self._open.pop(next(iter(self._open))))
            found = self._open[layer] = os.open(self._paths[layer], os.O_RDONLY)
        return found

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
