"""Many followers of one operation over fakes: one reader, everyone their own pace, none lost."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse, ClientSession, web

from contree.app.journal import JournalEntry, NumberedEntry
from contree.app.reads import OperationRow
from contree.http.execution import events, feed
from contree.http.execution.feed import Feed, Feeds
from contree.http.server import serve_api
from tests.fakes.journal import FakeJournal
from tests.fakes.reads import FakeOperationReads
from tests.unit.http.world import Api, World

WAIT_S = 30


class CountingJournal(FakeJournal):
    """Counts how often it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        self.reads += 1
        return await super().read(operation_id, after=after, limit=limit, spid=spid)


async def a_run(world: World) -> OperationRow:
    async with world.client() as client:
        client.session.headers["Authorization"] = f"Bearer {await world.token()}"
        body = {"command": "c", "image": str(await world.image())}
        operation_id = UUID((await (await client.post("/v1/instances", json=body)).json())["uuid"])
    await world.begin(operation_id)
    return await row_of(world, operation_id)


async def row_of(world: World, operation_id: UUID) -> OperationRow:
    row = await FakeOperationReads(world.log).get(world.context().project_id, operation_id)
    assert row is not None
    return row


async def write(world: World, operation_id: UUID, *texts: str, type_: str = "stdout") -> None:
    await world.journal.append(
        operation_id,
        [JournalEntry(at=world.clock.now(), type=type_, spid=1, data={"value": t}) for t in texts],
    )


def feeds_of(world: World) -> Feeds:
    return Feeds(
        journal=world.journal,
        operations=FakeOperationReads(world.log),
        news=world.news,
        clock=world.clock,
    )


async def read_to_the_end(opened: Feed, after: int = -1) -> list[int]:
    """Return the numbers that a follower who keeps up gets."""
    numbers: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while True:
            assert after >= opened.floor, "it fell behind"
            if frames := opened.frames_after(after):
                numbers += [frame.number for frame in frames]
                after = numbers[-1]
            elif opened.ended:
                return numbers
            else:
                await opened.changed()


async def test_a_thousand_followers_cost_one_reader() -> None:
    world = World()
    world.journal = journal = CountingJournal()
    journal.appended = world.news.tell
    row, feeds = await a_run(world), feeds_of(world)

    async def follower() -> list[int]:
        async with feeds.follow(row, after=-1) as opened:
            return await read_to_the_end(opened)

    followers = [asyncio.create_task(follower()) for _ in range(1000)]
    await asyncio.sleep(0.05)
    for n in range(20):
        await write(world, row.operation_id, f"{n}")
        await asyncio.sleep(0)
    await world.succeed(row.operation_id, await world.outcome())
    seen = await asyncio.gather(*followers)
    assert seen == [list(range(21))] * 1000
    assert journal.reads < 100
    assert world.news.subscriptions == 1
    assert not world.news.subscribers[row.operation_id]


async def test_the_window_is_bounded_and_who_is_behind_it_is_told_by_its_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "WINDOW_BYTES_MAX", 4096)
    world = World()
    row, feeds = await a_run(world), feeds_of(world)
    async with feeds.follow(row, after=-1) as opened:
        await write(world, row.operation_id, *["x" * 500] * 100)
        async with asyncio.timeout(WAIT_S):
            while not opened.frames_after(98):
                await opened.changed()
        kept = opened.frames_after(opened.floor)
        assert sum(len(frame.data) for frame in kept) <= 4096
        assert [frame.number for frame in kept] == list(range(opened.floor + 1, 100))


async def test_what_a_lost_attempt_wrote_is_not_shown_to_those_who_come_later() -> None:
    world = World()
    row, feeds = await a_run(world), feeds_of(world)
    async with feeds.follow(row, after=-1) as opened:
        await write(world, row.operation_id, "old", "old")
        await opened.changed()
        await world.journal.restart(row.operation_id)
        await write(world, row.operation_id, "", type_="init")
        await write(world, row.operation_id, "new")
        async with asyncio.timeout(WAIT_S):
            while not opened.frames_after(2):
                await opened.changed()
        assert opened.floor == 1
        assert [frame.type for frame in opened.frames_after(1)] == ["init", "stdout"]


async def test_a_number_that_was_never_given_makes_nobody_else_miss_anything() -> None:
    world = World()
    row, feeds = await a_run(world), feeds_of(world)
    await write(world, row.operation_id, "a")
    async with feeds.follow(row, after=1_000_000), feeds.follow(row, after=0) as opened:
        await write(world, row.operation_id, "b")
        await world.succeed(row.operation_id, await world.outcome())
        assert await read_to_the_end(opened, after=0) == [1, 2]


async def test_a_feed_looks_by_itself_when_no_news_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.01)
    world = World()
    world.journal.appended = world.log.ended = None
    row, feeds = await a_run(world), feeds_of(world)
    async with feeds.follow(row, after=-1) as opened:
        await write(world, row.operation_id, "a")
        await world.succeed(row.operation_id, await world.outcome())
        assert await read_to_the_end(opened) == [0, 1]


async def numbers_of(response: ClientResponse) -> list[int]:
    return [
        json.loads(line[6:])["id"] async for line in response.content if line.startswith(b"data: {")
    ]


async def test_a_follower_that_never_reads_is_dropped_and_others_are_not(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed once the buffers between are full; its memory is bounded by them."""
    dropped, drop = asyncio.Event(), events.drop

    async def watched(*arguments: Any, **more: Any) -> None:
        await drop(*arguments, **more)
        dropped.set()

    monkeypatch.setattr(events, "drop", watched)
    # One loop serves both and reads for the good one: a machine that pauses it for so long would
    # have both dropped.
    monkeypatch.setattr(events, "STALL_S", 3)
    monkeypatch.setattr(events, "ABORT_S", 0.2)
    row = await a_run(world)
    path = f"/v1/operations/{row.operation_id}/events?follow=1"
    assert api.server.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, limit=1024)
    authorization = api.session.headers["Authorization"]
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n".encode()
    )
    await writer.drain()
    good = asyncio.create_task(numbers_of(await api.get(path)))
    for _ in range(40):  # 40 MB: more than the system's buffers take
        await write(world, row.operation_id, *["x" * 100_000] * 10)
        await asyncio.sleep(0.01)
    await world.succeed(row.operation_id, await world.outcome())
    async with asyncio.timeout(60):
        assert await good == list(range(401))
        await dropped.wait()
        got = 0
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                got += len(data)
    assert got < 40_000_000
    writer.close()


async def test_a_thousand_reconnects_leave_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hung up on after its first event: no task, connection or memory.

    As it is served in earnest: a test server would cancel what its clients leave.
    """
    monkeypatch.setattr(feed, "TICK_S", 0.02)
    row = await a_run(world)
    await write(world, row.operation_id, "a")
    headers = {"Authorization": f"Bearer {await world.token()}"}
    others = len(asyncio.all_tasks())  # this one, and what earlier tests keep for the session
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        path = f"{url}/v1/operations/{row.operation_id}/events?follow=1"

        async def reconnect(times: int) -> None:
            async with ClientSession(headers=headers) as client:
                for _ in range(times):
                    response = await client.get(path)
                    assert await response.content.readline() == b"id: 0\n"
                    response.close()

        await reconnect(50)  # what is made once is there
        tasks = await _tasks_left(others)
        objects = _live_objects()
        await reconnect(1000)
        await _tasks_left(tasks)
        assert _live_objects() - objects < 1000, "something stays of each"
    assert not any(world.news.subscribers.values())


async def _tasks_left(count_max: int) -> int:
    """Wait until no more than so many tasks are left; return how many."""
    async with asyncio.timeout(WAIT_S):
        while (count := len(asyncio.all_tasks())) > count_max:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    return count


def _live_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


async def test_feeds_end_with_the_server(world: World) -> None:
    row = await a_run(world)
    app = web.Application()
    app[events.FEEDS] = feeds = feeds_of(world)
    async with feeds.follow(row, after=-1) as opened:
        await write(world, row.operation_id, "a")
        await opened.changed()
        feeds.close()
        assert await read_to_the_end(opened) == [0]
