"""How much room the file systems of a data directory have left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def free_bytes(places: Sequence[Path]) -> int:
    """Return what we may still write where there is least of it; places that are not there count
    as the directory above them. Raises OSError.
    """
    return min(_free_bytes(place) for place in places)


def _free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
