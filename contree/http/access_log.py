"""One line for each answered request, and the id that ties it to everything else it caused.

Lines are `name=value` pairs. Neither query strings (they name files and tags) nor headers nor
bodies are logged.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from http import HTTPStatus

from aiohttp import web

from contree.http.errors import Handler
from contree.http.metrics import measure
from contree.http.wiring import CALLER, REQUEST_ID, STARTED

REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID_TEXT = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
REQUEST_ID_BYTES = 16
PATH_CHARS_MAX = 200
CLIENT_CLOSED_REQUEST = 499
"""In the log only, for a client that went away first: nginx's convention."""

_log = logging.getLogger(__name__)


@web.middleware
async def log_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, and log how it was answered, streams when they end."""
    asked = request.headers.get(REQUEST_ID_HEADER, "")
    accepted = REQUEST_ID_TEXT.fullmatch(asked) is not None
    request[REQUEST_ID] = asked if accepted else secrets.token_hex(REQUEST_ID_BYTES)
    began_s = time.monotonic()
    status: int = CLIENT_CLOSED_REQUEST
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as answer:
        status = answer.status
        raise
    except Exception as error:  # an answer that had begun was broken off
        if not isinstance(error, ConnectionError):
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        raise
    finally:
        duration_s = time.monotonic() - began_s
        measure(request, status, duration_s)
        _write_line(request, status, duration_s * 1000)


async def mark_start(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: runs when the head of any answer is about to go out."""
    if (request_id := request.get(REQUEST_ID)) is not None:  # not before the middlewares ran
        response.headers[REQUEST_ID_HEADER] = request_id
    request[STARTED] = True


def _write_line(request: web.Request, status: int, duration_ms: float) -> None:
    caller = request.get(CALLER)
    _log.info(
        "method=%s path=%s status=%d duration_ms=%.1f request_id=%s actor=%s project=%s",
        request.method,
        request.rel_url.raw_path[:PATH_CHARS_MAX],
        status,
        duration_ms,
        request[REQUEST_ID],
        "-" if caller is None else caller.actor,
        "-" if caller is None else caller.project_id,
    )
