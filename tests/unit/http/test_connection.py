"""What is no HTTP, or expects what there is not: answered, and neither logged nor sent back."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from yarl import URL

from contree.http.server import serve_api, serve_metrics
from tests.unit.http.world import World, bearer

WAIT_S = 30
TOKEN = b"contree_token_of_somebody"
HEAD = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n"


class NoMetrics:
    async def exposition(self, accept: str) -> tuple[bytes, str]:
        return b"", accept


async def sent(url: str, data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send `data` and return status, headers and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
        status, *lines = head.strip().split(b"\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(b": ") for line in lines)}
        body = await reader.readexactly(int(headers[b"content-length"]))
    writer.close()
    return int(status.split()[1]), headers, body


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Authorization : Bearer " + TOKEN + b"\r\n\r\n",
        HEAD + b"Authorization: Bearer " + TOKEN + b"\nX: y\r\n\r\n",
        HEAD + b"Authorization: Bearer " + TOKEN + b"\0\r\n\r\n",
        HEAD + b"Transfer-Encoding: " + TOKEN + b"\r\nContent-Length: 1\r\n\r\n",
        b"GET /" + TOKEN + b" HTTP/9.x\r\n\r\n",
        TOKEN + b"\r\n\r\n",
        b"Bearer\0" + TOKEN + b" / HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_neither_logged_nor_sent_back(
    world: World, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        status, headers, body = await sent(url, data)
    assert (status, json.loads(body)["status"]) == (400, 400)
    assert TOKEN not in body
    assert headers[b"server"] == b"contreed"
    (line,) = [r for r in caplog.records if "malformed" in r.getMessage()]
    assert line.exc_info is None
    assert TOKEN.decode() not in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


@pytest.mark.parametrize("path", [b"/v1/whoami", b"/v1/nowhere"])
async def test_an_expectation_that_is_not_met_is_a_417(
    world: World, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nExpect: foo\r\n\r\n"
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        status, headers, _ = await sent(url, head)
    assert (status, headers[b"server"]) == (417, b"contreed")
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


async def test_a_body_that_is_held_back_is_asked_for(world: World) -> None:
    authorization = bearer(await world.token())["Authorization"].encode()
    async with serve_api(world.services(), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n"
            b"Authorization: " + authorization + b"\r\n\r\n"
        )
        async with asyncio.timeout(WAIT_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"x")
            assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
        writer.close()


async def test_no_answer_names_a_version_of_what_serves_it(world: World) -> None:
    async with (
        serve_api(world.services(), "127.0.0.1", 0) as url,
        serve_metrics(NoMetrics(), "127.0.0.1", 0) as metrics_url,
    ):
        for to, path in ((url, b"/healthz"), (url, b"/nowhere"), (metrics_url, b"/metrics")):
            _, headers, _ = await sent(to, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert headers[b"server"] == b"contreed"
