"""The event stream over fakes: order, resuming, following, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse

from contree.app.journal import JournalEntry, NumberedEntry
from contree.domain.errors import UnavailableError
from contree.http.execution import events, feed, journal_reader
from contree.http.wiring import CLOSING
from tests.fakes.journal import FakeJournal
from tests.unit.http.world import Api, World


async def a_run(api: Api, world: World) -> UUID:
    body = {"command": "c", "image": str(await world.image())}
    return UUID((await (await api.post("/v1/instances", json=body)).json())["uuid"])


async def write(world: World, operation_id: UUID, *types: str, spid: int = 1) -> None:
    await world.journal.append(
        operation_id,
        [JournalEntry(at=world.clock.now(), type=t, spid=spid, data={"n": t}) for t in types],
    )


async def frame(response: ClientResponse) -> dict[str, Any] | None:
    """Return the next event, checked against its `id` and `event` lines; None at the end."""
    lines: list[str] = []
    while line := (await response.content.readline()).decode():
        if line == "\n":
            if lines and not lines[0].startswith(":"):
                break
            lines = []
        else:
            lines.append(line.rstrip("\n"))
    if not lines:
        return None
    number, type_, data = (text.partition(": ")[2] for text in lines)
    event: dict[str, Any] = json.loads(data)
    assert (str(event["id"]), event["type"]) == (number, type_)
    return event


async def all_frames(response: ClientResponse) -> list[tuple[int, str]]:
    assert response.status == 200
    found = []
    while (event := await frame(response)) is not None:
        found.append((event["id"], event["type"]))
    return found


async def test_without_follow_what_is_there_is_sent_and_the_stream_ends(
    api: Api, world: World
) -> None:
    operation_id = await a_run(api, world)
    await world.begin(operation_id)
    await write(world, operation_id, "init", spid=0)
    await write(world, operation_id, "spawn", "stdout")
    response = await api.get(f"/v1/operations/{operation_id}/events")
    assert response.content_type == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert await all_frames(response) == [(0, "init"), (1, "spawn"), (2, "stdout")]


async def test_a_frame_has_the_form_that_the_clients_parse(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, "spawn")
    response = await api.get(
        f"/v1/operations/{operation_id}/events", headers={"Accept-Encoding": "gzip"}
    )
    assert "Content-Encoding" not in response.headers
    at = world.clock.now().isoformat()
    assert (await response.read()).decode() == (
        "id: 0\nevent: spawn\n"
        f'data: {{"id":0,"ts":"{at}","spid":1,"type":"spawn","data":{{"n":"spawn"}}}}\n\n'
    )


async def test_the_end_of_an_operation_is_the_last_event_and_has_no_process(
    api: Api, world: World
) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, "spawn", "exit")
    image_id = await world.image()
    await world.succeed(operation_id, await world.outcome(), image_id=image_id)
    for query in ("", "?follow=1", "?follow"):
        response = await api.get(f"/v1/operations/{operation_id}/events{query}")
        assert [await frame(response) for _ in range(2)]
        assert await frame(response) == {
            "id": 2,
            "ts": world.clock.now().isoformat(),
            "type": "completion",
            "data": {
                "status": "SUCCESS",
                "duration_ms": 2000,
                "result_image_uuid": str(image_id),
                "error": None,
                "image_size_bytes": 512,
            },
        }
        assert await frame(response) is None


async def test_an_operation_that_never_began_still_has_its_end(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    assert (await api.delete(f"/v1/operations/{operation_id}")).status == 202
    response = await api.get(f"/v1/operations/{operation_id}/events?follow=1")
    event = await frame(response)
    assert event is not None
    assert (event["id"], event["data"]["status"]) == (0, "CANCELLED")
    assert event["data"]["error"]


async def test_a_client_resumes_after_what_it_has_seen(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, "spawn", "stdout", "exit")
    await world.succeed(operation_id, await world.outcome())
    path = f"/v1/operations/{operation_id}/events?follow=1"
    for since, expected in (
        (-1, [(0, "spawn"), (1, "stdout"), (2, "exit"), (3, "completion")]),  # nothing seen yet
        (0, [(1, "stdout"), (2, "exit"), (3, "completion")]),
        (2, [(3, "completion")]),
        (3, []),
        (1000, []),
    ):
        assert await all_frames(await api.get(f"{path}&since={since}")) == expected
        # The header wins over the query.
        headers = {"Last-Event-Id": str(since)}
        response = await api.get(f"{path}&since=1", headers=headers)
        assert await all_frames(response) == expected


async def test_the_end_comes_after_what_a_lost_attempt_has_shown(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, "spawn", "stdout")
    await world.journal.restart(operation_id)
    await api.delete(f"/v1/operations/{operation_id}")
    response = await api.get(f"/v1/operations/{operation_id}/events?since=1")
    [(number, type_)] = await all_frames(response)
    assert (number > 1, type_) == (True, "completion")


async def test_one_process_is_shown_alone_and_without_the_operations_end(
    api: Api, world: World
) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, "init", spid=0)
    await write(world, operation_id, "spawn", spid=2)
    await write(world, operation_id, "exit", spid=1)
    await world.succeed(operation_id, await world.outcome())
    for spid, expected in ((0, [(0, "init")]), (2, [(1, "spawn")]), (9, [])):
        response = await api.get(f"/v1/operations/{operation_id}/events?follow=1&spid={spid}")
        assert await all_frames(response) == expected


async def test_a_long_journal_is_sent_whole(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    await write(world, operation_id, *["stdout"] * (journal_reader.ENTRIES_MAX * 2 + 1))
    await world.succeed(operation_id, await world.outcome())
    found = await all_frames(await api.get(f"/v1/operations/{operation_id}/events"))
    assert [number for number, _ in found] == list(range(journal_reader.ENTRIES_MAX * 2 + 2))


async def test_a_follower_waits_through_pending_and_sees_everything_to_the_end(
    api: Api, world: World
) -> None:
    operation_id = await a_run(api, world)
    response = await api.get(f"/v1/operations/{operation_id}/events?follow=1")
    await write(world, operation_id, "spawn")
    assert await frame(response) is not None
    await world.begin(operation_id)
    await write(world, operation_id, "exit")
    assert await frame(response) is not None
    await world.succeed(operation_id, await world.outcome())
    last = await frame(response)
    assert last is not None
    assert (last["id"], last["type"]) == (2, "completion")
    assert await frame(response) is None


async def test_a_silent_stream_is_kept_alive(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.02)
    monkeypatch.setattr(feed, "TICK_S", 0.01)
    operation_id = await a_run(api, world)
    response = await api.get(f"/v1/operations/{operation_id}/events?follow=1")
    assert await response.content.readexactly(26) == b": keepalive\n\n" * 2
    response.close()


async def test_what_other_processes_do_keeps_no_stream_of_one_alive(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.02)
    monkeypatch.setattr(feed, "TICK_S", 0.01)
    operation_id = await a_run(api, world)
    response = await api.get(f"/v1/operations/{operation_id}/events?follow=1&spid=2")
    stop = asyncio.Event()

    async def chatter() -> None:
        while not stop.is_set():
            await write(world, operation_id, "stdout")
            await asyncio.sleep(0.001)

    chatting = asyncio.create_task(chatter())
    async with asyncio.timeout(30):
        assert await response.content.readexactly(26) == b": keepalive\n\n" * 2
    stop.set()
    await chatting
    response.close()


async def test_an_import_has_its_end_for_who_waits_and_who_comes_later(
    api: Api, world: World
) -> None:
    body = {"registry": {"url": "docker://registry.example/image"}, "tag": "t"}
    operation_id = UUID((await (await api.post("/v1/images/import", json=body)).json())["uuid"])
    path = f"/v1/operations/{operation_id}/events"
    assert await all_frames(await api.get(path)) == []
    following = await api.get(f"{path}?follow=1")
    image_id = await world.image()
    await world.succeed(operation_id, image_id=image_id, tag="t")
    for response in (following, await api.get(f"{path}?follow=1"), await api.get(path)):
        event = await frame(response)
        assert event is not None
        assert (event["id"], event["type"]) == (0, "completion")
        assert event["data"]["result_image_uuid"] == str(image_id)
        assert await frame(response) is None


async def test_a_server_that_closes_ends_its_streams_without_an_end_of_the_operation(
    world: World,
) -> None:
    client = world.client()
    await client.start_server()
    client.session.headers["Authorization"] = f"Bearer {await world.token()}"
    operation_id = await a_run(client, world)
    response = await client.get(f"/v1/operations/{operation_id}/events?follow=1")
    await write(world, operation_id, "spawn")
    assert await frame(response) is not None
    async with asyncio.timeout(30):
        closing = asyncio.create_task(client.server.close())
        assert await frame(response) is None
        await closing
    assert client.app is not None
    assert client.app[CLOSING].is_set()
    await client.close()


class BrokenJournal(FakeJournal):
    """Cannot be read."""

    async def read(
        self,
        operation_id: UUID,  # noqa: ARG002 - the Protocol's
        *,
        after: int = -1,  # noqa: ARG002 - the Protocol's
        limit: int = 1000,  # noqa: ARG002 - the Protocol's
        spid: int | None = None,  # noqa: ARG002 - the Protocol's
    ) -> Sequence[NumberedEntry]:
        raise UnavailableError("the secret inside of the database")


class DefectiveJournal(FakeJournal):
    """Is read by code that has a fault."""

    async def read(self, *_: object, **__: object) -> Sequence[NumberedEntry]:
        raise KeyError("a secret inside")


@pytest.mark.parametrize("journal", [BrokenJournal, DefectiveJournal])
async def test_a_journal_that_breaks_midway_is_told_in_band(
    world: World, journal: type[FakeJournal]
) -> None:
    world.journal = journal()
    async with world.client() as client:
        client.session.headers["Authorization"] = f"Bearer {await world.token()}"
        operation_id = await a_run(client, world)
        response = await client.get(f"/v1/operations/{operation_id}/events?follow=1")
        text = await response.text()
    assert text.startswith(": stream ended with error")
    assert "\nevent: sse_error\ndata: " in text
    assert "secret" not in text


async def test_a_follower_that_goes_away_is_noticed(world: World) -> None:
    client = world.client()
    async with client:
        client.session.headers["Authorization"] = f"Bearer {await world.token()}"
        operation_id = await a_run(client, world)
        response = await client.get(f"/v1/operations/{operation_id}/events?follow=1")
        assert client.server.runner is not None
        assert client.server.runner.server is not None
        response.close()
        async with asyncio.timeout(30):
            while client.server.runner.server.connections:  # noqa: ASYNC110 - aiohttp has no event for it
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("since=x", {}, "since"),
        ("since=-2", {}, "since"),
        ("since=-0", {}, "since"),
        ("since=--1", {}, "since"),
        ("since=", {}, "since"),
        ("since=1.0", {}, "since"),
        (f"since={2**60}", {}, "since"),
        ("spid=x", {}, "spid"),
        ("spid=-1", {}, "spid"),
        ("", {"Last-Event-Id": "x"}, "Last-Event-Id"),
        ("since=1", {"Last-Event-Id": "-2"}, "Last-Event-Id"),
        ("since=x", {"Last-Event-Id": "1"}, "since"),
    ],
)
async def test_a_bad_parameter_is_refused_by_its_name(
    api: Api, world: World, query: str, headers: dict[str, str], field: str
) -> None:
    operation_id = await a_run(api, world)
    response = await api.get(f"/v1/operations/{operation_id}/events?{query}", headers=headers)
    assert response.status == 400
    assert (await response.json())["field"] == field


async def test_a_refused_number_is_told_what_there_is(api: Api, world: World) -> None:
    operation_id = await a_run(api, world)
    response = await api.get(f"/v1/operations/{operation_id}/events?since=-2")
    said = (await response.json())["error"]
    assert said == "since: '-2' is not a whole number from -1 to 9007199254740992"


async def test_the_events_of_an_unknown_operation_are_a_404(api: Api) -> None:
    path = "/v1/operations/00000000-0000-4000-8000-00000000ffff/events"
    for query in ("", "?follow=1"):
        assert (await api.get(path + query)).status == 404
