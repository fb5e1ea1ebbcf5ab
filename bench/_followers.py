"""Many followers of one event stream in one process, as cheap as can be: they note when bytes come.

    async with followers(port, path, headers, count) as those: ...; latencies_ms(those, since_s=...)

What an event says of itself (`"ts":"..."`, this machine's clock) is read afterwards, so that the
reader costs the server beside it as little as possible.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from bench._http_client import request_bytes

CONNECT_AT_ONCE = 50
OPENED_WITHIN_S = 60.0
STAMP = re.compile(rb'"ts":"([^"]+)"[^\n]*"type":"stdout"')


class Follower(asyncio.Protocol):
    """One connection. `heard` is (when, bytes) of everything that came."""

    def __init__(self, request: bytes) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.opened = asyncio.get_running_loop().create_future()
        self._request = request
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.heard.append((time.time(), data))
        if not self.opened.done():
            self.opened.set_result(data.startswith(b"HTTP/1.1 200 "))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def followers(
    port: int, path: str, headers: Mapping[str, str], count: int
) -> AsyncIterator[list[Follower]]:
    """Open `count` streams, each answered with a 200, and hang up at the end."""
    request = request_bytes(path, headers)
    loop = asyncio.get_running_loop()
    made: list[Follower] = []
    room = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def follow() -> None:
        async with room:
            _, follower = await loop.create_connection(lambda: Follower(request), "127.0.0.1", port)
            made.append(follower)
            assert await follower.opened

    try:
        async with asyncio.timeout(OPENED_WITHIN_S):
            await asyncio.gather(*(follow() for _ in range(count)))
        yield made
    finally:
        for follower in made:
            follower.close()


def latencies_ms(those: Sequence[Follower], *, since_s: float, until_s: float) -> list[float]:
    """Return, for every event stamped within the span (Unix s), how long it took to each follower.

    Raises AssertionError unless all have heard of the same events.
    """
    counts = set()
    found: list[float] = []
    for follower in those:
        mine = []
        for at, data in follower.heard:
            for stamp in STAMP.findall(data):
                stamped_s = datetime.fromisoformat(stamp.decode()).timestamp()
                if since_s <= stamped_s < until_s:
                    mine.append((at - stamped_s) * 1000)
        counts.add(len(mine))
        found += mine
    assert len(counts) == 1, counts
    assert found
    return found
