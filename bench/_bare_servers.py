"""References for what the API answers: the least that could send the same bytes.

    python -m bench._bare_servers rows DSN    aiohttp + asyncpg: one SELECT, one JSON document
    python -m bench._bare_servers file PATH   a socket and sendfile(2)
    python -m bench._bare_servers events MS   aiohttp: one event every so often, to all who follow

Each prints its port and serves until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from aiohttp import web

GET = "SELECT * FROM read.operations WHERE operation_id = $1"
STOP_S = 10.0
SPAN_HEADER = b"X-Span: "
"""`X-Span: OFFSET COUNT`: which bytes of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BareServer:
    """A reference in a process of its own, so that it shares no interpreter with the client."""

    port: int
    pid: int


@contextmanager
def bare_server(kind: str, argument: str) -> Iterator[BareServer]:
    """Start one of them, stop it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench._bare_servers", kind, argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield BareServer(port=int(process.stdout.readline()), pid=process.pid)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _serve_rows(dsn: str) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=10)

    async def get(request: web.Request) -> web.Response:
        row = await pool.fetchrow(GET, UUID(request.match_info["id"]))
        body = json.dumps(dict(row), default=str).encode()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/operations/{id}", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _announce(runner.addresses[0][1])
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()
    await pool.close()


def _serve_file(path: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_answer_all, args=(listener, path), daemon=True).start()
    _announce(listener.getsockname()[1])
    sys.stdin.read()


def _answer_all(listener: socket.socket, path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - the plainest
        while True:
            client, _ = listener.accept()
            with client:
                while request := client.recv(65536):
                    offset, left = map(int, request.split(SPAN_HEADER)[1].split()[:2])
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
                    while left:
                        sent = os.sendfile(client.fileno(), file.fileno(), offset, left)
                        offset, left = offset + sent, left - sent


async def _serve_events(every_ms: int) -> None:
    """Write one event after the other, stamped when it is made, to all streams that are open."""
    streams: set[web.StreamResponse] = set()
    stop = asyncio.Event()

    async def follow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b": hello\n\n")
        streams.add(response)
        await stop.wait()
        return response

    async def speak() -> None:
        for number in itertools.count():
            await asyncio.sleep(every_ms / 1000)
            at = datetime.now(UTC).isoformat()
            data = b'{"id":%d,"ts":"%s","spid":1,"type":"stdout"}' % (number, at.encode())
            event = b"id: %d\nevent: stdout\ndata: %s\n\n" % (number, data)
            for response in list(streams):
                try:
                    await response.write(event)
                except ConnectionError:
                    streams.discard(response)

    app = web.Application()
    app.router.add_get("/", follow)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    speaking = asyncio.create_task(speak())
    _announce(runner.addresses[0][1])
    await asyncio.to_thread(sys.stdin.read)
    speaking.cancel()
    stop.set()
    await runner.cleanup()


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        asyncio.run(_serve_rows(sys.argv[2]))
    elif sys.argv[1] == "events":
        asyncio.run(_serve_events(int(sys.argv[2])))
    else:
        _serve_file(sys.argv[2])
