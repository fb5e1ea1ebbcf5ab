"""The recorded history over fakes: filters, pages, feeds, lineage, the past, and their record."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse

from contree.app.audit import ask_audit
from contree.domain.audit_reading import AuditRead
from contree.domain.operation import Operation
from contree.domain.token import Permission
from contree.http.execution import events
from contree.http.wiring import CLOSING
from tests.support.histories import a_spec
from tests.unit.http.world import Api, World, bearer

WAIT_S = 10


async def a_run(api: Api, world: World, *, image: UUID | None = None, **fields: Any) -> UUID:
    body = {"command": "c", "image": str(image or await world.image()), **fields}
    return UUID((await (await api.post("/v1/instances", json=body)).json())["uuid"])


async def page(api: Api, query: str = "", status: int = 200) -> dict[str, Any]:
    response = await api.get(f"/v1/audit/events{query}")
    body: dict[str, Any] = await response.json()
    assert response.status == status, body
    return body


def types(body: dict[str, Any]) -> list[str]:
    return [event["type"].removeprefix("contree.") for event in body["events"]]


async def refusal(api: Api, path: str) -> tuple[int, str | None, str]:
    response = await api.get(path)
    body = await response.json()
    return response.status, body.get("field"), body["error"]


def readings(world: World) -> list[AuditRead]:
    return [event for event in world.log.events if isinstance(event, AuditRead)]


async def test_an_event_is_a_cloud_event_with_the_hash_of_its_row(api: Api, world: World) -> None:
    operation_id = await a_run(api, world, env={"API_KEY": "secret"})
    body = await page(api, f"?operation={operation_id}")
    (event,) = body["events"]
    (recorded,) = [e for e in await world.recorded.read(after=0) if e.aggregate_id == operation_id]
    data = event.pop("data")
    token = world.log.events[1]
    assert event == {
        "specversion": "1.0",
        "id": str(recorded.position),
        "source": "/v1/audit/events",
        "type": "contree.operation.instance_requested",
        "subject": f"operation/{operation_id}",
        "time": world.clock.now().isoformat(),
        "datacontenttype": "application/json",
        "actor": str(token.originator_id),
        "projectid": str(token.project_id),
        "requestid": event["requestid"],
        "aggregateversion": 1,
        "recordedtime": recorded.recorded_at.isoformat(),
        "hash": recorded.hash.hex(),
    }
    assert set(event) == {name.lower() for name in event}
    assert data["spec"]["env"]["API_KEY"] != "secret"
    assert not {"timestamp", "actor", "project_id", "request_id"} & data.keys()


async def test_every_filter_finds_its_own(api: Api, world: World) -> None:
    image, other = await world.image(tag="base"), await world.image(tag="other")
    run, _ = await a_run(api, world, image=image), await a_run(api, world, image=other)
    await world.succeed(run, await world.outcome(), image_id=other)
    operation = ["instance_requested", "assigned", "started", "succeeded"]
    assert types(await page(api, f"?operation={run}")) == [f"operation.{t}" for t in operation]
    assert types(await page(api, f"?image={image}")) == [
        "image.imported",
        "tag.assigned",
        "operation.instance_requested",
    ]
    assert types(await page(api, "?tag=base")) == ["tag.assigned"]
    actor = str(world.log.events[1].originator_id)
    assert types(await page(api, f"?actor={actor}"))[:2] == ["operation.instance_requested"] * 2
    ends = await page(api, "?type=contree.operation.succeeded&type=contree.tag.")
    assert types(ends) == ["tag.assigned", "tag.assigned", "operation.succeeded"]
    assert types(await page(api, f"?operation={run}&type=contree.tag.")) == []


async def test_pages_go_on_from_their_cursor_in_either_order(api: Api, world: World) -> None:
    for _ in range(4):
        await world.image()
    whole = (await page(api, "?limit=1000"))["events"]
    for order in ("asc", "desc"):
        bound = f"&until_position={whole[-1]['id']}"
        found: list[str] = []
        cursor = ""
        while True:
            body = await page(api, f"?order={order}&limit=2{bound}{cursor}")
            found += [event["id"] for event in body["events"]]
            if body["next"] is None:
                break
            cursor = f"&cursor={body['next']}"
        ids = [event["id"] for event in whole]
        assert found == (ids if order == "asc" else ids[::-1])
    assert int(body["head"]) > int(whole[-1]["id"])  # each page was recorded meanwhile


async def test_nothing_of_another_project_is_shown(api: Api, world: World) -> None:
    theirs = await world.image(tag="base", project="beta")
    assert types(await page(api, f"?image={theirs}")) == []
    assert types(await page(api, "?tag=base")) == []
    response = await api.get(f"/v1/images/{theirs}/lineage")
    assert response.status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/audit/events",
        "/v1/audit/events?follow=1",
        f"/v1/images/{UUID(int=1)}/lineage",
        "/v1/images?as_of=1h",
        "/v1/operations?as_of=@0",
        f"/v1/operations/{UUID(int=1)}?as_of=@0",
        "/v1/inspect/?tag=base&as_of=@0",
        f"/v1/inspect/{UUID(int=1)}/?as_of=@0",
    ],
)
async def test_the_history_needs_the_permission_audit(
    anonymous: Api, world: World, path: str
) -> None:
    worker = await world.token(permissions=[p for p in Permission if p is not Permission.AUDIT])
    response = await anonymous.get(path, headers=bearer(worker))
    assert response.status == 403
    assert "'audit'" in (await response.json())["error"]
    assert readings(world) == []
    if "as_of" in path:  # and the permission of the route itself
        auditor = await world.token(permissions=[Permission.AUDIT])
        assert (await anonymous.get(path, headers=bearer(auditor))).status == 403


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("type=contree.nothing", "type", "contree.operation.failed"),
        ("type=operation", "type", "beginning of none"),
        ("operation=x", "operation", "UUID"),
        ("image=x", "image", "UUID"),
        ("tag=%20", "tag", "segments"),
        ("actor=", "actor", "1 to 256"),
        ("limit=1001", "limit", "1 to 1000"),
        ("order=up", "order", "asc, desc"),
        ("after=-1", "after", "whole number"),
        ("after=999999", "after", "beyond the end of the log"),
        ("after=9999999999999999999", "after", "whole number"),
        ("cursor=x", "cursor", "whole number"),
        ("since=2999-01-01T00:00:00Z", "since", "in the future"),
        ("until=2999-01-01T00:00:00Z", "until", "in the future"),
        ("since=yesterday", "since", "ISO 8601"),
        ("format=xml", "format", "sse, ndjson"),
        ("follow=1&order=asc", "order", "follow"),
        ("follow=1&after=999999", "after", "beyond the end of the log"),
    ],
)
async def test_bad_questions_are_refused_by_name_and_not_recorded(
    api: Api, world: World, query: str, field: str, says: str
) -> None:
    status, named, text = await refusal(api, f"/v1/audit/events?{query}")
    assert (status, named) == (400, field)
    assert says in text
    assert readings(world) == []


async def test_every_look_is_recorded_with_who_what_and_how_many(api: Api, world: World) -> None:
    image = await world.image(tag="base")
    await page(api, "?tag=base&limit=5")
    assert (await api.get(f"/v1/images/{image}/lineage?depth=3")).status == 200
    assert (await api.get("/v1/images?as_of=0s")).status == 200
    assert (await api.get(f"/v1/operations/{image}?as_of=0s")).status == 404
    token = str(world.log.events[1].originator_id)
    assert {reading.actor for reading in readings(world)} == {token}
    assert [(r.subject, r.query, r.found) for r in readings(world)] == [
        ("events", {"path": "/v1/audit/events", "tag": "base", "limit": "5"}, 1),
        ("lineage", {"path": f"/v1/images/{image}/lineage", "depth": "3"}, 1),
        ("as_of", {"path": "/v1/images", "as_of": "0s"}, 1),
        ("as_of", {"path": f"/v1/operations/{image}", "as_of": "0s"}, 0),
    ]
    assert types(await page(api, "?type=contree.audit.")) == ["audit.read"] * 4


async def test_what_cannot_be_recorded_is_not_shown(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.image()
    append = world.log.append

    async def broken(*aggregates: Any, **more: Any) -> None:
        world.log.available = False
        await append(*aggregates, **more)

    monkeypatch.setattr(world.log, "append", broken)
    for path in ("/v1/audit/events", "/v1/audit/events?follow=1", "/v1/images?as_of=@1"):
        world.log.available = True
        response = await api.get(path)
        assert response.status == 503
        assert "events" not in await response.json()


async def test_an_answer_waits_for_the_index_and_then_says_how_far_it_is(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.image()
    world.progress.held = 1
    waiting = asyncio.create_task(api.get("/v1/audit/events"))
    await asyncio.sleep(0)
    assert not waiting.done()
    world.progress.held = None
    await world.image()
    assert (await waiting).status == 200
    world.progress.held = 1
    monkeypatch.setattr(ask_audit, "LAG_MAX_S", 0.01)
    head = await world.recorded.head()
    response = await api.get("/v1/audit/events")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert f"at position 1 and the log at {head}" in (await response.json())["error"]
    # A past that the index has reached is answered all the same.
    assert (await api.get("/v1/images?as_of=@1")).status == 200


async def sse(response: ClientResponse) -> tuple[int, str, dict[str, Any]] | None:
    """Return the next frame; None for a keepalive."""
    lines: list[str] = []
    while (line := (await response.content.readline()).decode()) != "\n":
        assert line, "the feed ended"
        lines.append(line.rstrip("\n"))
    if lines[0].startswith(":"):
        return None
    number, type_, data = (text.partition(": ")[2] for text in lines)
    return int(number), type_, json.loads(data)


async def test_a_feed_goes_on_from_any_position_without_a_gap(api: Api, world: World) -> None:
    for _ in range(3):
        await world.image()
    async with asyncio.timeout(WAIT_S):
        response = await api.get("/v1/audit/events?follow=1&after=2")
        assert response.content_type == "text/event-stream"
        seen = [await sse(response) for _ in range(4)]
        await world.image(project="beta")
        await world.image()
        seen.append(await sse(response))
    numbers = [frame[0] for frame in seen if frame is not None]
    assert numbers == [3, 4, 5, 6, 8]  # 6 is the record of the feed itself, 7 another project's
    for frame in seen:
        assert frame is not None
        assert (str(frame[0]), frame[1]) == (frame[2]["id"], frame[2]["type"])
    async with asyncio.timeout(WAIT_S):
        again = await api.get("/v1/audit/events?follow", headers={"Last-Event-ID": "5"})
        assert [(await sse(again) or (0,))[0] for _ in range(3)] == [6, 8, 9]


async def test_a_feed_may_be_ndjson_and_filtered(api: Api, world: World) -> None:
    await world.image(tag="base")
    for extra, headers in (("&format=ndjson", {}), ("", {"Accept": "application/x-ndjson"})):
        async with asyncio.timeout(WAIT_S):
            response = await api.get(
                f"/v1/audit/events?follow=1&type=contree.tag.{extra}", headers=headers
            )
            assert response.content_type == "application/x-ndjson"
            event = json.loads(await response.content.readline())
        assert event["type"] == "contree.tag.assigned"
        response.close()


async def test_a_quiet_feed_is_kept_alive_and_ends_with_the_server(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.05)
    head = await world.recorded.head()
    async with asyncio.timeout(WAIT_S):
        response = await api.get(f"/v1/audit/events?follow=1&after={head}")
        assert await sse(response) is not None  # the record of itself
        assert await sse(response) is None
        # Events that are not wanted keep nothing alive: silence is broken all the same.
        await world.image(project="beta")
        assert await sse(response) is None
        api.app[CLOSING].set()
        assert b"data" not in await response.content.read()


async def test_a_reader_who_never_reads_is_dropped(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed once the buffers between are full; its memory is bounded by them."""
    dropped, drop = asyncio.Event(), events.drop

    async def watched(*arguments: Any, **more: Any) -> None:
        await drop(*arguments, **more)
        dropped.set()

    monkeypatch.setattr(events, "drop", watched)
    monkeypatch.setattr(events, "STALL_S", 0.1)
    monkeypatch.setattr(events, "ABORT_S", 0.1)
    image = await world.image()
    size, count = 60_000, 700  # 42 MB: more than the system's buffers take
    spec = a_spec(image, args=("x" * size,))
    for _ in range(count):
        run = Operation.request_instance(
            world.context(), operation_id=world.ids.new_id(), spec=spec
        )
        await world.log.append(run)
    assert api.server.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, limit=1024)
    authorization = api.session.headers["Authorization"]
    writer.write(
        b"GET /v1/audit/events?follow=1 HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: %s\r\n\r\n" % authorization.encode()
    )
    async with asyncio.timeout(WAIT_S):
        await dropped.wait()
        got = 0
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                got += len(data)
    assert 0 < got < count * size
    writer.close()


async def test_a_feed_that_breaks_says_so(api: Api, world: World) -> None:
    await world.image()
    async with asyncio.timeout(WAIT_S):
        response = await api.get("/v1/audit/events?follow=1&format=ndjson")
        for _ in range(4):
            await response.content.readline()
        world.log.available = False
        async with world.log.grown:
            world.log.grown.notify_all()
        assert "error" in json.loads(await response.content.readline())
        assert await response.content.read() == b""


async def test_lineage_tells_ancestors_descendants_and_what_was_between(
    api: Api, world: World
) -> None:
    base = await world.image(tag="base")
    body = await (await api.get(f"/v1/images/{base}/lineage")).json()
    (only,) = body["images"]
    assert (only["uuid"], only["depth"], only["tags"]) == (str(base), 0, ["base"])
    assert (only["parent_uuid"], body["truncated"]) == (None, False)
    status, field, _ = await refusal(api, f"/v1/images/{base}/lineage?depth=0")
    assert (status, field) == (400, "depth")


async def test_the_past_is_answered_as_it_was(api: Api, world: World) -> None:
    image = await world.image()
    run = await a_run(api, world, image=image)
    pending = await world.recorded.head()
    world.clock.advance(60)
    await world.begin(run)
    begun = await world.recorded.head()
    await world.succeed(run, await world.outcome())
    await world.image(tag="later")

    async def seen(as_of: str) -> tuple[str, float, int]:
        one = await (await api.get(f"/v1/operations/{run}?as_of={as_of}")).json()
        many = await (await api.get(f"/v1/operations?as_of={as_of}")).json()
        images = await (await api.get(f"/v1/images?as_of={as_of}")).json()
        assert many[0]["status"] == one["status"]
        return one["status"], one["duration"], len(images["images"])

    assert await seen(f"@{pending}") == ("PENDING", 0.0, 1)
    assert (await seen(f"@{begun}"))[::2] == ("EXECUTING", 1)
    assert await seen("0s") == ("SUCCESS", 2.0, 2)
    response = await api.get(f"/v1/operations/{run}?as_of=@{begun}")
    assert response.headers["Contree-As-Of"] == f"@{begun}"
    assert "Retry-After" not in response.headers
    before = await api.get(f"/v1/inspect/?tag=later&as_of=@{begun}", allow_redirects=False)
    after = await api.get("/v1/inspect/?tag=later&as_of=0s", allow_redirects=False)
    assert (before.status, after.status) == (404, 302)
    assert (await api.get(f"/v1/inspect/{image}/?as_of=@1")).status == 404


@pytest.mark.parametrize(
    ("as_of", "says"),
    [
        ("@999999", "beyond the end of the log"),
        ("@", "whole number"),
        ("@-1", "whole number"),
        ("2999-01-01", "in the future"),
        ("then", "ISO 8601"),
    ],
)
async def test_a_past_that_is_not_there_is_refused(api: Api, as_of: str, says: str) -> None:
    for path in ("/v1/images", "/v1/operations", f"/v1/operations/{UUID(int=1)}"):
        status, field, text = await refusal(api, f"{path}?as_of={as_of}")
        assert (status, field) == (400, "as_of")
        assert says in text


async def test_a_clock_a_little_ahead_of_ours_means_now(api: Api, world: World) -> None:
    moment = (world.clock.now() + timedelta(seconds=30)).isoformat().replace("+", "%2B")
    assert (await api.get(f"/v1/images?as_of={moment}")).status == 200
