"""For balancers and supervisors, without a token: alive, ready, and what the API is."""

from __future__ import annotations

from aiohttp import web

from contree.http.answers import json_answer
from contree.http.openapi import document
from contree.http.wiring import SERVICES


async def alive(request: web.Request) -> web.Response:
    """200 as long as the process answers at all."""
    return json_answer(request, {"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """200 when what `Services.ready` asks about is there too, else 503 with the reason."""
    await request.app[SERVICES].ready()
    return json_answer(request, {"status": "ready"})


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI document of this server."""
    return json_answer(request, document(request.app[SERVICES].limits))
