"""What is sent to a client must be read: one that takes nothing for STALL_S is let go.

Else it would hold files and a connection for as long as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import BinaryIO, Final

from aiohttp import web

from contree.http.wiring import REQUEST_ID

_log = logging.getLogger(__name__)

STALL_S = 60.0

_BYTES_ACKED: Final = slice(120, 128)
"""Of Linux's `struct tcp_info`: how much of what was sent the other end has taken."""


async def write(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Write a piece. Raises ConnectionError when the client is gone, or has it not in STALL_S."""
    with _let_go(request):
        async with asyncio.timeout(STALL_S):
            await response.write(piece)


async def sendfile(request: web.Request, file: BinaryIO, offset: int, count: int) -> int:
    """Send a part of a file and return how many bytes of it there were. Raises as `write`.

    However large it is, and however slowly the client takes it: what counts is that its end of the
    connection acknowledges some of it every STALL_S.
    """
    with _let_go(request) as transport:
        connection = transport.get_extra_info("socket")
        async with asyncio.timeout(STALL_S) as limit:
            watching = asyncio.create_task(_extend(limit, connection), name="reading client")
            try:
                return await asyncio.get_running_loop().sendfile(transport, file, offset, count)
            finally:
                watching.cancel()


@contextlib.contextmanager
def _let_go(request: web.Request) -> Iterator[asyncio.Transport]:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client went away")
    try:
        yield transport
    except TimeoutError:
        _log.warning("request_id=%s client let go, it does not read", request[REQUEST_ID])
        transport.abort()  # closing would wait until it has read what is buffered
        raise ConnectionResetError("the client does not read") from None


async def _extend(limit: asyncio.Timeout, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    taken = _taken(connection)
    while True:
        await asyncio.sleep(STALL_S / 4)
        before, taken = taken, _taken(connection)
        if taken != before and not limit.expired():
            limit.reschedule(loop.time() + STALL_S)


def _taken(connection: socket.socket) -> int:
    """Return how many bytes the other end has acknowledged."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    return int.from_bytes(info[_BYTES_ACKED], "little")
