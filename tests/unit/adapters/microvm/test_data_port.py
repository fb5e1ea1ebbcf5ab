"""The data port over a real socket pair: whole, in order, in bounded pieces, and let go of."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from contree.adapters.microvm.agent.data_port import MANY_BYTES, PIECE_BYTES, DataPort

WAIT_S = 10


@pytest.fixture
async def ends() -> AsyncIterator[tuple[DataPort, socket.socket]]:
    host, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    port = DataPort(host)
    yield port, guest
    port.close()
    guest.close()


Ends = tuple[DataPort, socket.socket]


async def test_little_is_given_at_once(ends: Ends) -> None:
    port, guest = ends
    guest.sendall(b"tar")
    async with asyncio.timeout(WAIT_S):
        assert await port.read() == b"tar"


async def test_much_comes_whole_in_pieces_of_bounded_size(ends: Ends) -> None:
    port, guest = ends
    sent = os.urandom(5 * PIECE_BYTES + 12_345)

    def send() -> None:
        guest.sendall(sent)
        guest.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(asyncio.to_thread(send))
    pieces = []
    async with asyncio.timeout(WAIT_S):
        while piece := await port.read():
            pieces.append(piece)
        await sending
    assert b"".join(pieces) == sent
    assert max(len(piece) for piece in pieces) <= PIECE_BYTES


async def test_what_trickles_in_is_not_waited_for(ends: Ends) -> None:
    port, guest = ends
    guest.sendall(bytes(MANY_BYTES))  # no more comes, and nobody hangs up
    async with asyncio.timeout(WAIT_S):
        assert len(await port.read()) == MANY_BYTES


async def test_the_end_is_told_again_and_again(ends: Ends) -> None:
    port, guest = ends
    guest.close()
    async with asyncio.timeout(WAIT_S):
        assert [await port.read(), await port.read()] == [b"", b""]


async def test_a_read_that_is_given_up_does_not_keep_the_socket() -> None:
    host, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    port = DataPort(host)
    reading = asyncio.create_task(port.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    port.close()
    with guest:
        async with asyncio.timeout(WAIT_S):
            assert await asyncio.to_thread(guest.recv, 1) == b""  # the host's end is closed
