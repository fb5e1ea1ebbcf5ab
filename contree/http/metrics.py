"""`GET /metrics` for a monitoring system, on an address of its own.

It needs no token, as those who scrape have none, and tells of all projects together: so it is not
part of the API, and whoever opens its address decides who may reach it.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from contree.http.connection import name_server


class RequestMeter(Protocol):
    """Takes how requests were answered."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the pattern that matched, `status` 499 for a client that went away first."""
        ...


class Exposition(Protocol):
    """Gives what was measured."""

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return text and its content type, in the format that `accept` (RFC 9110) likes best."""
        ...


METER: web.AppKey[RequestMeter] = web.AppKey("meter", RequestMeter)
EXPOSITION: web.AppKey[Exposition] = web.AppKey("exposition", Exposition)

OTHER = "other"
"""The label of methods and paths that we do not know: those that clients think up are unbounded."""
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE"})


def create_metrics_app(exposition: Exposition) -> web.Application:
    """Return the application that answers scrapes."""
    app = web.Application()
    app[EXPOSITION] = exposition
    app.on_response_prepare.append(name_server)
    app.router.add_get("/metrics", _metrics)
    return app


def measure(request: web.Request, status: int, seconds: float) -> None:
    """Tell the application's meter, if it has one, how `request` was answered."""
    if (meter := request.app.get(METER)) is None:
        return
    resource = request.match_info.route.resource
    route = OTHER if resource is None else resource.canonical
    method = request.method if request.method in METHODS else OTHER
    meter.answered(method, route, status, seconds)


async def _metrics(request: web.Request) -> web.Response:
    body, content_type = await request.app[EXPOSITION].exposition(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})
