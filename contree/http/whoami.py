"""`/whoami`: what the token is and may do; the one call that needs no permission."""

from __future__ import annotations

from aiohttp import web

from contree.http.answers import json_answer
from contree.http.render import whoami_value
from contree.http.wiring import CALLER, SERVICES


async def whoami(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    caller = request[CALLER]
    counts = dict(await services.operations.counts(caller.project_id))
    return json_answer(request, whoami_value(caller, services.limits, counts))
