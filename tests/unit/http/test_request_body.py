"""How long a body may take: one that comes drop by drop is let go."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

from contree.http import request_body, server
from contree.http.server import serve_api
from tests.unit.http.world import World, bearer

WAIT_S = 30
DROP_S = 0.005
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture(autouse=True)
def _brief_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits that long for the rest of what it has refused."""
    monkeypatch.setattr(server, "SHUTDOWN_S", 0.1)


async def dripped(world: World, path: str, *, until: asyncio.Event | None = None) -> bytes:
    """Send a byte each DROP_S until an answer comes, or `until`; return the answer."""
    head = HEAD.format(path=path, authorization=bearer(await world.token())["Authorization"])
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(head.encode())
        answer = asyncio.create_task(reader.readuntil(b"}"))
        async with asyncio.timeout(WAIT_S):
            while not answer.done() and not (until and until.is_set()):
                writer.write(b"1\r\nx\r\n")
                await asyncio.wait({answer}, timeout=DROP_S)
            if not answer.done():
                writer.write(b"0\r\n\r\n")
            found = await answer
        writer.close()
    return found


@pytest.mark.parametrize("path", ["/v1/files", "/v1/instances", "/v1/images/import"])
async def test_a_body_that_comes_drop_by_drop_is_let_go(
    world: World, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No silence is long; all together it is slower than the least rate."""
    monkeypatch.setattr(request_body, "BODY_GRACE_S", 0.2)
    answer = await dripped(world, path)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"upload_interrupted"' in answer
    assert world.blobs.stored == {}


async def test_a_sender_above_the_least_rate_may_take_longer_than_the_grace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "BODY_GRACE_S", 0.2)
    monkeypatch.setattr(request_body.body_chunks, "__kwdefaults__", {"bytes_per_s_min": 1})
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.6, done.set)
    assert (await dripped(world, "/v1/files", until=done)).startswith(b"HTTP/1.1 201 ")
