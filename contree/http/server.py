"""The listening socket: starts the API on an address and stops it with its answers finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

from aiohttp import web

from contree.app.services import Services
from contree.domain.errors import InvalidFieldError
from contree.http.app import create_app
from contree.http.connection import Connection
from contree.http.metrics import Exposition, RequestMeter, create_metrics_app

SHUTDOWN_S = 5.0
"""How long open answers (followers of events, downloads) may go on after a stop."""
KEEPALIVE_S = 75.0
BACKLOG = 1024
"""Connections that the system may hold for us: followers come back all at once after a restart."""

LINE_BYTES_MAX = 256 * 1024
"""A request line: 16 patterns of 1,024 characters and as many paths, percent-encoded."""


@asynccontextmanager
async def serve_api(
    services: Services, host: str, port: int, *, meter: RequestMeter | None = None
) -> AsyncIterator[str]:
    """Serve until the context ends; yield the base URL (port 0 takes a free one).

    Raises InvalidFieldError when the address cannot be had.
    """
    listening = _listening(
        web.AppRunner(create_app(services, meter), shutdown_timeout=SHUTDOWN_S),
        "listen",
        host,
        port,
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=LINE_BYTES_MAX,
        auto_decompress=False,  # an encoded body is refused, and not inflated for that
        access_log=None,  # create_app logs each request itself, with its id
    )
    async with listening as url:
        yield url


@asynccontextmanager
async def serve_metrics(exposition: Exposition, host: str, port: int) -> AsyncIterator[str]:
    """As `serve_api`, for GET /metrics."""
    runner = web.AppRunner(create_metrics_app(exposition))
    async with _listening(runner, "metrics_listen", host, port, access_log=None) as url:
        yield f"{url}/metrics"


@asynccontextmanager
async def _listening(
    runner: web.AppRunner, setting: str, host: str, port: int, **options: Any
) -> AsyncIterator[str]:
    """Listen as aiohttp's TCPSite would, which knows only the library's own kind of connection.

    `options` are those of each Connection.
    """
    await runner.setup()
    server = runner.server
    assert server is not None  # it is set up
    try:
        loop = asyncio.get_running_loop()
        accept = partial(Connection, server, loop=loop, **options)
        listen = loop.create_server(accept, host, port, reuse_address=True, backlog=BACKLOG)
        try:
            listener = await listen
        except OSError as error:
            raise InvalidFieldError(setting, f"cannot listen on {host}:{port}: {error}") from error
        with closing(listener):
            bound = listener.sockets[0].getsockname()
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{bound[1]}"
    finally:
        await runner.cleanup()
