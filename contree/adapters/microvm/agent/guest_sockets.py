"""The host's ends of a guest's sockets, connected on the thread that starts its QEMU.

A clone's are there before its state is loaded: a port whose other end comes or goes is news to the
guest, and its kernel would handle that before anything else. The question to the agent lies in its
port already when it wakes up.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.data_port import DataPort
from contree.adapters.microvm.hypervisor.domain_xml import AGENT_SOCKET, CONSOLE_SOCKET, DATA_SOCKET
from contree.domain.errors import GuestFailure

STREAM_LIMIT_BYTES = 1024**2

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class GuestSockets:
    """The sockets in `directory`. Whoever makes this closes it, once `connect` has returned."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ends: dict[str, socket.socket] = {}
        self._writers: list[asyncio.StreamWriter] = []
        self._data: DataPort | None = None

    def connect(self) -> None:
        """Connect all of them and say HELLO to the agent. Blocks, not for long.

        QEMU must listen already. Raises GuestFailure.
        """
        for name in (CONSOLE_SOCKET, DATA_SOCKET, AGENT_SOCKET):
            end = self._ends[name] = socket.socket(socket.AF_UNIX)
            try:
                end.connect(str(self._directory / name))
            except OSError as error:
                text = f"the guest was lost: its {name} does not answer: {error.strerror}"
                raise GuestFailure(text, retryable=True) from error
        self._ends[AGENT_SOCKET].sendall(commands.hello())

    async def stream(self, name: str) -> Stream:
        """Return one of them for asyncio, once."""
        reader, writer = await asyncio.open_unix_connection(
            sock=self._ends.pop(name), limit=STREAM_LIMIT_BYTES
        )
        self._writers.append(writer)
        return reader, writer

    def data_port(self) -> DataPort:
        """Return the end of the data port, once."""
        self._data = DataPort(self._ends.pop(DATA_SOCKET))
        return self._data

    def close(self) -> None:
        """Close what is open, unsent bytes with it."""
        if self._data is not None:
            self._data.close()
        for end in self._ends.values():
            end.close()
        for writer in self._writers:
            writer.transport.abort()
