"""Asked in a process of its own: the setting is for all of a process, and so is what it undoes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contree.adapters.system.heap import LARGE_BYTES

ASK = f"""
import ctypes, sys
from contree.adapters.system.heap import keep_holes_out

class Mallinfo(ctypes.Structure):  # mallinfo2, malloc.h
    _fields_ = [(f"field{{n}}", ctypes.c_size_t) for n in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
if sys.argv[1] == "fixed":
    assert keep_holes_out()
larger = bytearray({8 * LARGE_BYTES})
del larger  # from here on glibc takes it for the measure of what is large
before = libc.mallinfo2().field3  # hblks, regions made by mmap
buffer = bytearray({2 * LARGE_BYTES})
print(libc.mallinfo2().field3 - before)
"""


@pytest.mark.parametrize(("how", "regions"), [("fixed", 1), ("as it is", 0)])
def test_a_large_buffer_stays_out_of_the_heap(how: str, regions: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, how], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == regions
