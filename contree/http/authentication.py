"""Who asks: the bearer token of each request to a caller, before any handler runs.

Routes that need no token are listed here by name of their handler's route; everything else is
refused without one. A path that does not exist is a 404 for everybody: it tells nothing.
"""

from __future__ import annotations

from aiohttp import web

from contree.domain.errors import UnauthenticatedError
from contree.http.errors import Handler
from contree.http.wiring import CALLER, REQUEST_ID, SERVICES

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
SECRET_CHARS_MAX = 8192
PROJECT_CHARS_MAX = 256


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Set CALLER, or raise UnauthenticatedError."""
    if request.match_info.http_exception is None and request.path not in OPEN_PATHS:
        request[CALLER] = await request.app[SERVICES].access.authenticate(
            bearer_secret(request), project=_project(request), request_id=request[REQUEST_ID]
        )
    return await handler(request)


def bearer_secret(request: web.Request) -> str:
    """Return the secret of `Authorization: Bearer <secret>`. Raises UnauthenticatedError."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise UnauthenticatedError("Authorization: is missing, send 'Bearer <token>'")
    if len(secret) > SECRET_CHARS_MAX or not secret.isascii():
        raise UnauthenticatedError("the token is not known here, or was revoked")
    return secret


def _project(request: web.Request) -> str | None:
    """The project a client names is optional, since a token belongs to exactly one."""
    project = request.headers.get("Project")
    if project is not None and len(project) > PROJECT_CHARS_MAX:
        raise UnauthenticatedError("Project: the token does not belong to this project")
    return project
