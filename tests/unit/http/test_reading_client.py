"""Clients that stop reading what they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from contree.http import reading_client
from tests.unit.http.world import Api, World, bearer

SIZE_BYTES = 64 << 20
"""More than both ends of a connection hold between them."""
WAIT_S = 60


@pytest.mark.parametrize("what", ["sendfile", "pieces", "archive"])
async def test_a_client_that_does_not_read_is_let_go(
    api: Api,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    monkeypatch.setattr(reading_client, "STALL_S", 0.2)
    image_id = await world.image(tag="large:1")
    world.files.add("/large", data=bytes(SIZE_BYTES))
    if what == "sendfile":
        (tmp_path / "large").write_bytes(bytes(SIZE_BYTES))
        world.files.sources["/large"] = (tmp_path / "large", 0)
    call = "archive?path=/" if what == "archive" else "download?path=/large"
    token = bearer(await world.token())["Authorization"]
    reader, writer = await asyncio.open_connection(api.host, api.port)
    writer.write(
        f"GET /v1/inspect/{image_id}/{call} HTTP/1.1\r\n"
        f"Host: here\r\nAuthorization: {token}\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
    async with asyncio.timeout(WAIT_S):
        while "it does not read" not in caplog.text:  # noqa: ASYNC110 - the log has no event
            await asyncio.sleep(0.02)
    received = 0
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            received += len(piece)
    assert received < SIZE_BYTES
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_one_that_takes_some_of_it_is_given_more_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading_client, "STALL_S", 0.04)
    extended = asyncio.Event()

    class Limit(asyncio.Timeout):
        def reschedule(self, when: float | None) -> None:
            assert when is not None
            extended.set()

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as theirs,
        listening.accept()[0] as ours,
    ):
        watching = asyncio.create_task(reading_client._extend(Limit(None), ours))
        await asyncio.sleep(0)  # it has looked for the first time
        ours.sendall(b"taken")
        assert theirs.recv(5) == b"taken"
        async with asyncio.timeout(WAIT_S):
            await extended.wait()
        watching.cancel()
