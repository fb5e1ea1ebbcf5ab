"""Images, tags, imports and uploads through the app on fakes, good and bad input."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from yarl import URL

from contree.domain.file import FileUploaded
from contree.domain.operation import ImportRequested
from contree.http.server import serve_api
from tests.unit.http.world import Api, World, bearer

WAIT_S = 30

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"


async def tags_listed(api: Api, query: str) -> list[str | None]:
    response = await api.get(f"/v1/images?{query}")
    assert response.status == 200, await response.text()
    return [image["tag"] for image in (await response.json())["images"]]


async def test_images_are_listed_newest_first_one_row_for_each_tag(api: Api, world: World) -> None:
    first = await world.image(tag="a:1")
    world.clock.advance(10)
    await world.image()
    await api.patch(f"/v1/images/{first}/tag", json={"tag": "a:1.5"})
    assert await tags_listed(api, "") == [None, "a:1", "a:1.5"]
    assert await tags_listed(api, "limit=1") == [None]
    assert await tags_listed(api, "limit=1&offset=2") == ["a:1.5"]
    assert await tags_listed(api, "offset=2147483647") == []
    assert await tags_listed(api, f"uuid={first}") == ["a:1", "a:1.5"]
    assert await tags_listed(api, f"uuid={UNKNOWN}") == []


@pytest.mark.parametrize(("query", "count"), [("tagged=0", 2), ("tagged", 1), ("tagged=1", 1)])
async def test_any_value_of_tagged_but_0_leaves_out_what_has_no_tag(
    api: Api, world: World, query: str, count: int
) -> None:
    await world.image()
    await world.image(tag="t")
    assert len(await tags_listed(api, query)) == count


async def test_a_tag_prefix_finds_the_exact_match_first_and_a_malformed_one_nothing(
    api: Api, world: World
) -> None:
    await world.image(tag="base")
    world.clock.advance(1)
    await world.image(tag="base:2")
    assert await tags_listed(api, "tag=base") == ["base", "base:2"]
    assert await tags_listed(api, "tag=base:") == ["base:2"]
    assert await tags_listed(api, "tag=") == ["base:2", "base"]
    assert await tags_listed(api, "tag=%C3%BC") == []
    assert await tags_listed(api, f"tag={'a' * 5000}") == []


async def test_since_and_until_bound_a_list(api: Api, world: World) -> None:
    await world.image(tag="old")
    world.clock.advance(3600)
    await world.image(tag="new")
    assert await tags_listed(api, "since=30m") == ["new"]
    assert await tags_listed(api, "until=30m") == ["old"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "limit=-1",
        "limit=1.0",
        "limit=%D9%A1",
        "offset=-1",
        "offset=x",
        f"offset={2**31}",
        "uuid=x",
        "uuid=",
        "uuid=tag:x",
        "since=x",
        "since=",
        "until=never",
        "tag=%00",
    ],
)
async def test_a_bad_parameter_of_a_list_is_refused_by_its_name(api: Api, query: str) -> None:
    response = await api.get(URL(f"/v1/images?{query}", encoded=True))
    body = await response.json()
    assert response.status == body["status"] == 400
    assert body["field"] == query.split("=", maxsplit=1)[0]
    assert body["error"].startswith(body["field"])


async def test_a_tag_moves_and_is_removed(api: Api, world: World) -> None:
    first, second = await world.image(), await world.image()
    for image_id, method in ((first, "PATCH"), (second, "POST")):
        response = await api.request(method, f"/v1/images/{image_id}/tag", json={"tag": "a/b:1.2"})
        assert response.status == 200
        body = await response.json()
        assert (body["uuid"], body["tag"]) == (str(image_id), "a/b:1.2")
    await api.patch(f"/v1/images/{second}/tag", json={"tag": "other"})
    removed = await api.delete(f"/v1/images/{second}/tag?tag=other")
    assert (removed.status, await removed.read()) == (204, b"")
    assert await tags_listed(api, "tagged") == ["a/b:1.2"]
    assert (await api.delete(f"/v1/images/{second}/tag?tag=other")).status == 204
    assert (await api.delete(f"/v1/images/{second}/tag")).status == 204
    assert await tags_listed(api, "tagged") == []


async def test_the_image_of_a_tag_route_may_be_named_by_its_tag(api: Api, world: World) -> None:
    image_id = await world.image(tag="deep/name:1")
    response = await api.post("/v1/images/tag:deep/name:1/tag", json={"tag": "copy"})
    assert (await response.json())["uuid"] == str(image_id)
    assert (await api.post("/v1/images/tag:none/tag", json={"tag": "copy"})).status == 404
    assert (await api.post("/v1/images/tag:-/tag", json={"tag": "copy"})).status == 400


@pytest.mark.parametrize(
    "tag", ["", " ", "-a", "a b", "a:", "a::b", "a@sha256:0", "ü", "a" * 257, "../x", "a\n"]
)
async def test_what_is_no_tag_is_refused(api: Api, world: World, tag: str) -> None:
    image_id = await world.image()
    response = await api.patch(f"/v1/images/{image_id}/tag", json={"tag": tag})
    assert response.status == 400
    assert (await response.json())["field"] == "tag"


async def test_the_tag_of_an_unknown_or_malformed_image_is_refused(api: Api) -> None:
    assert (await api.patch(f"/v1/images/{UNKNOWN}/tag", json={"tag": "a"})).status == 404
    assert (await api.patch("/v1/images/x/tag", json={"tag": "a"})).status == 400
    assert (await api.delete(f"/v1/images/{UNKNOWN}/tag")).status == 404


async def test_an_import_is_accepted_at_once_and_its_password_is_nowhere(
    api: Api, world: World
) -> None:
    registry = {
        "url": "docker://registry.example/a/b:c",
        "credentials": {"username": "me", "password": "hunter2"},
    }
    response = await api.post("/v1/images/import", json={"registry": registry, "tag": "t"})
    assert response.status == 201
    operation_id = (await response.json())["uuid"]
    assert response.headers["Location"] == f"/v1/operations/{operation_id}"
    shown = await (await api.get(f"/v1/operations/{operation_id}")).text()
    assert "<MASKED>" in shown
    assert "hunter2" not in shown
    assert "hunter2" not in repr([vars(e) for e in world.log.events])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"registry": {"url": "busybox"}}, "registry.url"),
        ({"registry": {"url": "docker://u:p@host.example/x"}}, "registry.url"),
        ({"registry": {"url": "docker://host.example/x"}, "tag": ""}, "tag"),
        ({"registry": {"url": "docker://host.example/x"}, "timeout": 0}, "timeout"),
        ({"registry": {"url": "docker://host.example/x"}, "timeout": 3601}, "timeout"),
    ],
)
async def test_a_bad_import_is_refused_and_leaves_no_operation(
    api: Api, world: World, body: dict[str, object], field: str
) -> None:
    response = await api.post("/v1/images/import", json=body)
    assert response.status == 400
    assert (await response.json())["field"] == field
    assert not any(isinstance(e, ImportRequested) for e in world.log.events)


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 300_000])
async def test_an_upload_is_kept_once_and_found_by_its_digest(api: Api, data: bytes) -> None:
    async def chunked() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    sha256 = hashlib.sha256(data).hexdigest()
    assert (await api.get(f"/v1/files/{sha256}")).status == 404
    assert (await api.head(f"/v1/files/{sha256}")).status == 404
    uploads = [await api.post("/v1/files", data=body) for body in (data, chunked())]
    assert [u.status for u in uploads] == [201, 201]
    first, second = [await u.json() for u in uploads]
    assert first == second
    assert first == {"uuid": first["uuid"], "sha256": sha256, "size": len(data)}
    for name in (sha256, sha256.upper()):
        found = await (await api.get(f"/v1/files/{name}")).json()
        assert (found["uuid"], found["size"]) == (first["uuid"], len(data))
        assert found["created_at"].endswith("+00:00")
    head = await api.head(f"/v1/files/{sha256}")
    assert (head.status, await head.read()) == (200, b"")
    listed = (await (await api.get("/v1/files")).json())["files"]
    assert [f["uuid"] for f in listed] == [first["uuid"]]
    older = await (await api.get(f"/v1/files?sha256={sha256}")).json()
    assert older["uuid"] == first["uuid"]


@pytest.mark.parametrize("name", ["x", "0" * 63, "0" * 65, "g" * 64])
async def test_what_is_no_digest_is_refused(api: Api, name: str) -> None:
    assert (await api.get(f"/v1/files/{name}")).status == 400
    assert (await api.get(f"/v1/files?sha256={name}")).status == 400


async def test_an_upload_past_the_limit_or_into_a_full_store_is_refused(
    api: Api, world: World
) -> None:
    too_many = world.limits.upload_bytes_max + 1
    response = await api.post("/v1/files", data=io.BytesIO(b"x" * too_many))
    assert response.status == 400
    assert "over" in (await response.json())["error"]
    world.blobs.full = True
    response = await api.post("/v1/files", data=b"x")
    assert response.status == 409
    assert (await response.json())["code"] == "storage_full"
    assert world.blobs.stored == {}


@pytest.mark.parametrize("coding", ["gzip", "DEFLATE", "br", "gzip, identity"])
async def test_a_body_with_an_encoding_is_refused_and_nothing_is_inflated(
    world: World, coding: str
) -> None:
    secret = await world.token()
    bomb = gzip.compress(b"\0" * 1_000_000)
    async with (
        serve_api(world.services(), "127.0.0.1", 0) as url,
        ClientSession(url, headers=bearer(secret) | {"Content-Encoding": coding}) as client,
    ):
        for path in ("/v1/files", "/v1/instances", "/v1/images/import"):
            response = await client.post(path, data=bomb)
            body = await response.json()
            assert (response.status, body["code"]) == (415, "encoded_body"), path
            assert body["field"] == "Content-Encoding"
            assert response.headers["Accept-Encoding"] == "identity"
    assert world.blobs.stored == {}


async def test_a_file_that_is_compressed_is_kept_as_it_is(api: Api) -> None:
    packed = gzip.compress(b"\0" * 1000)
    for headers in ({"Content-Type": "application/gzip"}, {"Content-Encoding": "identity"}):
        response = await api.post("/v1/files", data=packed, headers=headers)
        assert response.status == 201
        assert (await response.json())["sha256"] == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1000\r\n\r\npart of it",
        b"Transfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n64\r\npart of it",
    ],
)
async def test_an_upload_that_is_cut_off_leaves_nothing(
    world: World,
    head: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    reading, put = asyncio.Event(), world.blobs.put

    async def watched(*arguments: Any, **more: Any) -> None:
        reading.set()
        await put(*arguments, **more)

    monkeypatch.setattr(world.blobs, "put", watched)
    secret = (await world.token()).encode()
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + secret)
        writer.write(b"\r\n" + head)
        await writer.drain()
        async with asyncio.timeout(WAIT_S):
            await reading.wait()  # the handler is, when the line goes dead
        writer.close()
        await reader.read()
        async with asyncio.timeout(WAIT_S):
            wanted = "path=/v1/files status=400"
            while not any(wanted in r.message for r in caplog.records):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert world.blobs.stored == {}
    assert not any(isinstance(e, FileUploaded) for e in world.log.events)


async def test_a_malformed_chunk_is_a_400_and_leaves_nothing(api: Api, world: World) -> None:
    secret = api.session.headers["Authorization"].encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: " + secret + b"\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n"
    )
    answer = await asyncio.wait_for(reader.read(), WAIT_S)
    writer.close()
    assert answer.split(b" ")[1] == b"400"
    assert world.blobs.stored == {}


async def test_a_json_body_past_the_limit_is_refused(api: Api, world: World) -> None:
    async def chunked() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * (world.limits.request_body_bytes_max // 4)

    for body in (b" " * (world.limits.request_body_bytes_max + 1), chunked()):
        response = await api.post("/v1/instances", data=body)
        assert response.status == 400
        assert "larger than" in (await response.json())["error"]
