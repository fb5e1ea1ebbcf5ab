"""Keeps the heap of a process that lives long from filling with holes (glibc).

Every read of a socket asks for a large buffer, keeps a little of it and frees the rest. glibc gives
a large buffer memory of its own, by mmap, but raises its idea of "large" to the largest ever freed;
from then on such buffers come from the heap, and whatever is remembered meanwhile lies between them
and keeps their holes from being joined. Fixed thresholds stop that. Besides, each thread has a heap
of its own, though ours take turns under one lock: two do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

LARGE_BYTES: Final = 128 * 1024
"""What glibc takes for large, and gives back from the end of a heap, when it begins."""

HEAPS: Final = 2

_PARAMETERS: Final[Mapping[int, int]] = {-3: LARGE_BYTES, -1: LARGE_BYTES, -8: HEAPS}
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX; mallopt(3), numbers from malloc.h."""


def keep_holes_out() -> bool:
    """Set it for the whole process; return whether its C library can, as glibc does."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return all(mallopt(parameter, value) for parameter, value in _PARAMETERS.items())
