"""The host's end of a guest's data port (docs/guest-protocol.md, section 6): large pieces of bytes.

QEMU passes on 32 KiB at a time, and an event loop that is woken for each takes more time than what
is done with the bytes. So a thread gathers them while there are many; a stream that is small, as
most are, never starts one.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

PIECE_BYTES: Final = 1024**2
MANY_BYTES: Final = 32 * 1024
"""What QEMU passes on at a time when the guest has more."""

_PAUSE_MS: Final = 2
_GATHER_S: Final = 0.05
"""The longest that a piece may take, whatever trickles in."""


class DataPort:
    """A connected stream socket, which is ours from now on. One reads at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="data-port")  # starts none yet
        self._piece = memoryview(b"")

    async def read(self) -> bytes:
        """Wait for bytes and return up to PIECE_BYTES; empty at the end. Raises OSError."""
        loop = asyncio.get_running_loop()
        first = await loop.sock_recv(self._end, MANY_BYTES)
        if len(first) < MANY_BYTES:
            return first
        return await loop.run_in_executor(self._threads, self._gather, first)

    def close(self) -> None:
        """Let go of the socket, after what a thread may still do with it."""
        self._threads.submit(self._end.close)
        self._threads.shutdown(wait=False)

    def _gather(self, first: bytes) -> bytes:
        """Read on until the piece is full or nothing more comes."""
        if not self._piece:
            self._piece = memoryview(bytearray(PIECE_BYTES))
        self._piece[: len(first)] = first
        filled = len(first)
        readable = select.poll()
        readable.register(self._end, select.POLLIN)
        until = time.monotonic() + _GATHER_S
        while filled < PIECE_BYTES and time.monotonic() < until and readable.poll(_PAUSE_MS):
            received = self._end.recv_into(self._piece[filled:])
            if not received:
                break  # the next read meets the end again
            filled += received
        return bytes(self._piece[:filled])
