"""The bare virtio-serial channel: standard input and output of a process in a bare QEMU's guest.

The same agent and the same frames as in a run; a blocking socket instead of a worker, no database.
"""

from __future__ import annotations

import os
import time

from bench._raw_guest import PATIENCE_S, READ_BYTES, RawGuest
from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.commands import MAX_DATA_CHUNK_BYTES, STDIN_WINDOW_BYTES
from contree.adapters.microvm.agent.messages import Exited, GuestFrame, Output, StdinCredit

SPID = 1


class StreamingGuest(RawGuest):
    """A raw guest whose one process is fed and listened to."""

    window_bytes = STDIN_WINDOW_BYTES

    def echo_s(self, data: bytes) -> float:
        """Return how long `data` takes to a process that echoes it, and back."""
        began = time.perf_counter()
        self._control.sendall(commands.stdin(SPID, data))
        self.window_bytes -= len(data)
        self.await_output(len(data))
        return time.perf_counter() - began

    def feed_s(self, size_bytes: int) -> float:
        """Write so many bytes, end the input, and return how long until the process has ended."""
        began = time.perf_counter()
        piece = os.urandom(MAX_DATA_CHUNK_BYTES)
        left = size_bytes
        while left:
            while not self.window_bytes:
                self._hear()
            count = min(self.window_bytes, left, MAX_DATA_CHUNK_BYTES)
            self._control.sendall(commands.stdin(SPID, piece[:count]))
            self.window_bytes -= count
            left -= count
        self._control.sendall(commands.stdin_eof(SPID))
        while not any(isinstance(frame, Exited) for frame in self._hear()):
            pass
        return time.perf_counter() - began

    def drain_s(self, size_bytes: int) -> float:
        """Send one line; return how long until so many bytes of output have come."""
        began = time.perf_counter()
        self._control.sendall(commands.stdin(SPID, b"\n"))
        self.await_output(size_bytes)
        return time.perf_counter() - began

    def await_output(self, size_bytes: int) -> None:
        while size_bytes > 0:
            size_bytes -= sum(len(f.data) for f in self._hear() if isinstance(f, Output))

    def _hear(self) -> list[GuestFrame]:
        self._control.settimeout(PATIENCE_S)
        data = self._control.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the guest hung up")
        frames = self._decoder.feed(data)
        self.window_bytes += sum(f.count for f in frames if isinstance(f, StdinCredit))
        return frames
