"""Without a token: where things are, and for balancers and supervisors, alive and ready."""

from __future__ import annotations

from aiohttp import web

from contree.http.answers import json_answer
from contree.http.openapi import document
from contree.http.wiring import SERVICES


async def root(request: web.Request) -> web.Response:
    """What this is and where to go on, for whoever opens the bare address.

    Links are relative: a reverse proxy may have put a prefix before them.
    """
    value = {
        "name": "contree",
        "links": {"openapi": "openapi.json", "ready": "readyz", "alive": "healthz"},
        "docs": "docs/api.md and docs/clients/README.md of the source tree",
    }
    return json_answer(request, value)


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
