"""The guest's serial console: read without end, kept only as a short tail.

Hostile text. It is for people: the reason of a failure quotes its last lines.
"""

from __future__ import annotations

import asyncio

CONSOLE_BYTES_MAX = 16 * 1024**2
"""Read of one guest; beyond it the guest's own console blocks."""

TAIL_BYTES_MAX = 8 * 1024
QUOTED_CHARS_MAX = 400
END_TIMEOUT_S = 1.0

_PANIC = "Kernel panic"
_READ_BYTES = 4096


class Console:
    """Reads from `reader` until it ends."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._tail = bytearray()
        self._task = asyncio.create_task(self._read())

    async def last_words(self, *, ended: bool) -> str:
        """Return the panic message or else the last line, quotable; empty when there is none.

        Of a guest that has `ended`: waits END_TIMEOUT_S at most for what is still in the pipe.
        """
        if ended:
            await asyncio.wait({self._task}, timeout=END_TIMEOUT_S)
        lines = [_printable(line) for line in self._tail.decode(errors="replace").splitlines()]
        lines = [line for line in lines if line.strip()]
        for line in lines:
            at = line.find(_PANIC)
            if at >= 0:
                return line[at : at + QUOTED_CHARS_MAX]
        return lines[-1][-QUOTED_CHARS_MAX:].strip() if lines else ""

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> None:
        total = 0
        try:
            while total < CONSOLE_BYTES_MAX:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    return
                total += len(data)
                self._tail += data
                del self._tail[:-TAIL_BYTES_MAX]
        except OSError:
            return  # QEMU is gone


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)
