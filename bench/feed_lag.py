"""How long after an append do followers of the whole history have the event?

Measured from before the append to the arrival at each client, one event at a time: so the append
itself is in all of them. The reference is a bare LISTEN on the log's channel, which tells only that
something came.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from bench._measure import Report, Target, progress
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import open_pool
from contree.domain.context import Context
from contree.domain.image import Image, RecordedEnvironment
from contree.domain.project import project_id_of
from contree.domain.tag import Tag
from contree.projections import ALL
from tests.support.server import RunningServer, running_server

PROJECT = "bench"
WARM_UP = 50
EVENTS = 500
FEEDS = {"NDJSON": "ndjson", "SSE": "sse"}
LISTEN = "bare LISTEN"
ARRIVAL_S_MAX = 30
INDEX_ATTEMPTS = 60
"""Each waits for the index by itself."""


def main() -> None:
    report = Report("feed_lag", __doc__.splitlines()[0])
    with report.running(), running_server() as server:
        token = server.token(PROJECT, permissions="list,audit")
        _wait_for_index(server, token)
        lags = asyncio.run(_measure(server, token))
        for name in FEEDS:
            report.add(
                f"{name} feed, append to arrival",
                "ms",
                lags[name],
                lags[LISTEN],
                reference_name=LISTEN,
                targets=(Target(of="ours", at_most=20),),
            )
            for side in (name, LISTEN):
                report.add(f"- p99 of {side}", "ms", [statistics.quantiles(lags[side], n=100)[98]])
        report.note("the feed goes by the audit index: append, fold, wake, read")


def _wait_for_index(server: RunningServer, token: str) -> None:
    """The first start of a worker tries the accelerators out before it follows the log."""
    url = f"{server.url}/v1/audit/events?limit=1"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    for _ in range(INDEX_ATTEMPTS):
        try:
            with urllib.request.urlopen(request):
                return
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
    raise SystemExit("the audit index does not follow the log")


class Arrivals:
    """When each side had the event that is awaited."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        self._all_there = asyncio.Event()

    def arrived(self, side: str) -> None:
        self.at_s.setdefault(side, time.perf_counter())
        if len(self.at_s) == len(FEEDS) + 1:
            self._all_there.set()

    async def wait(self) -> dict[str, float]:
        async with asyncio.timeout(ARRIVAL_S_MAX):
            await self._all_there.wait()
        found, self.at_s = self.at_s, {}
        self._all_there.clear()
        return found


async def _measure(server: RunningServer, token: str) -> dict[str, list[float]]:
    arrivals = Arrivals()
    listener = await asyncpg.connect(server.dsn())
    following = [
        asyncio.create_task(_follow(server.url, token, form, name, arrivals.arrived))
        for name, form in FEEDS.items()
    ]
    lags: dict[str, list[float]] = {name: [] for name in (*FEEDS, LISTEN)}
    async with await open_pool(server.dsn()) as pool:
        log = PostgresEventLog(pool, ALL)
        events = _moves(log)
        await anext(events)  # the tag is there before anybody listens
        await listener.add_listener("stored_events", lambda *_: arrivals.arrived(LISTEN))
        for number in range(WARM_UP + EVENTS):
            progress(f"event {number}/{WARM_UP + EVENTS}")
            arrivals.at_s.clear()
            began = time.perf_counter()
            await anext(events)
            for side, at_s in (await arrivals.wait()).items():
                if number >= WARM_UP:
                    lags[side].append((at_s - began) * 1000)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await listener.close()
    return lags


async def _moves(log: PostgresEventLog) -> Any:
    """Move a tag to and fro, one event each time."""
    project_id = project_id_of(PROJECT)

    def context() -> Context:
        return Context(
            actor="bench", project_id=project_id, request_id="bench", at=datetime.now(UTC)
        )

    images = [
        Image.imported(
            context(),
            operation_id=project_id,
            registry_url="docker://bench",
            manifest_digest="sha256:m",
            config_digest=f"sha256:{number}",
            layers=[],
            environment=RecordedEnvironment(),
            workdir="/",
            size_bytes=1,
        )
        for number in range(2)
    ]
    tag = Tag.assign(context(), name="bench", image_id=images[0].id)
    await log.append(*images, tag)
    yield
    while True:
        tag.move(context(), image_id=images[tag.image_id == images[0].id].id)
        await log.append(tag)
        yield


async def _follow(
    url: str, token: str, form: str, name: str, arrived: Callable[[str], None]
) -> None:
    """Follow the moves of the tag over a plain socket."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    path = f"/v1/audit/events?follow=1&since=0s&type=contree.tag.moved&format={form}"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(f"the {name} feed was answered with {status.decode()}")
        while line := await reader.readline():
            if b'"specversion"' in line:
                arrived(name)
    finally:
        writer.close()


if __name__ == "__main__":
    main()
