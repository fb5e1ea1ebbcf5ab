"""A client that costs as little as possible, so that what is measured is the server.

HTTP/1.1 with keep-alive and Content-Length only, over blocking sockets or, for load, asyncio
streams. Not for anything but loopback.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Self

READ_BYTES = 1024**2
_LENGTH = b"content-length: "


def request_bytes(path: str, headers: Mapping[str, str]) -> bytes:
    """Return a GET of `path` (percent-encoded already)."""
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """One blocking connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(READ_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, request: bytes) -> int:
        """Return the size of the body, which is dropped. Raises ValueError unless it is a 200."""
        self._socket.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("the server hung up")
            head += piece
        length, begun = _body(head)
        left = length - begun
        while left:
            left -= self._socket.recv_into(self._buffer, min(left, READ_BYTES))
        return length


async def requests_per_s(port: int, request: bytes, *, connections: int, during_s: float) -> float:
    """Return how many requests a second that many connections, always asking, get answered."""
    deadline = time.monotonic() + during_s
    began = time.monotonic()
    counts = await asyncio.gather(
        *(_ask_until(port, request, deadline) for _ in range(connections))
    )
    return sum(counts) / (time.monotonic() - began)


async def _ask_until(port: int, request: bytes, deadline: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        while time.monotonic() < deadline:
            writer.write(request)
            length, begun = _body(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(length - begun)
            count += 1
        return count
    finally:
        writer.close()
        await writer.wait_closed()


def _body(head: bytes) -> tuple[int, int]:
    """Return the body's length, and how much of it stands behind the head already."""
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(head[:300].decode(errors="replace"))
    fields, _, body = head.partition(b"\r\n\r\n")
    at = fields.lower().index(_LENGTH) + len(_LENGTH)
    return int(fields[at:].split(b"\r\n", 1)[0]), len(body)
