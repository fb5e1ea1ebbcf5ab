"""Errors to answers: one table for our own, one shape for all, also for aiohttp's.

Body: `{"error": text, "status": n, "code": word}`, with `field` when one is to blame; a HEAD
request gets no body. An unexpected exception is a 500 that tells nothing of our insides; it is
logged with its traceback and the request's id.

Published clients retry every 5xx, without limit, so no status from 500 on is used for a condition
that does not go away by itself: a full store or queue is a 409, too large a body a 400.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from contree.domain import errors
from contree.http.json_text import json_bytes
from contree.http.wiring import REQUEST_ID, STARTED

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RETRY_AFTER_S = 1

STATUS_BY_ERROR: dict[type[errors.ContreeError], HTTPStatus] = {
    errors.InvalidFieldError: HTTPStatus.BAD_REQUEST,
    errors.EncodedBodyError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.LimitExceededError: HTTPStatus.BAD_REQUEST,
    errors.UploadInterruptedError: HTTPStatus.BAD_REQUEST,
    errors.UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    errors.PermissionMissingError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.InvalidTransitionError: HTTPStatus.CONFLICT,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.StorageFullError: HTTPStatus.CONFLICT,
    errors.QueueFullError: HTTPStatus.CONFLICT,
    errors.ContentDamagedError: HTTPStatus.CONFLICT,
    errors.WrongFileTypeError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.InstanceEndedError: HTTPStatus.GONE,
    errors.ContentErasedError: HTTPStatus.GONE,
    errors.ContentExpiredError: HTTPStatus.GONE,
    errors.TooEarlyError: HTTPStatus.TOO_EARLY,
    errors.OutcomeUnknownError: HTTPStatus.GATEWAY_TIMEOUT,
    # An adapter's own error at its start: it has no business here.
    errors.ContreeError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.EventTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    # These end operations, not requests; to meet one here is a fault of ours.
    errors.OperationFailure: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.GuestFailure: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.RegistryFailure: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.LayerRefused: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_log = logging.getLogger(__name__)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every exception of `handler` in the API's shape; a started stream is broken off."""
    try:
        return await handler(request)
    except errors.ContreeError as error:
        status = status_of(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.warning("request_id=%s %s: %s", request[REQUEST_ID], error.code, error)
        if request.get(STARTED):
            raise
        return _answer_to(request, error, status)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        text = f"{request.method} {request.path[:200]}: {error.reason}"
        answer = error_response(request, error.status, text, code="http")
        for name in ("Allow", "Retry-After"):
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer
    except ConnectionError:
        raise  # the client went away in the middle of an answer: nobody is left to tell
    except Exception:
        _log.exception("request_id=%s failed unexpectedly", request[REQUEST_ID])
        if request.get(STARTED):
            raise
        text = f"unexpected failure, see the server's log for request {request[REQUEST_ID]}"
        return error_response(request, HTTPStatus.INTERNAL_SERVER_ERROR, text, code="internal")


def status_of(error: errors.ContreeError) -> HTTPStatus:
    """Return the status of the error's class, or of the nearest one above it in the table."""
    return next(STATUS_BY_ERROR[c] for c in type(error).__mro__ if c in STATUS_BY_ERROR)


def error_response(
    request: web.BaseRequest, status: int, text: str, *, code: str, field: str | None = None
) -> web.Response:
    """Return the API's error answer."""
    if request.method == "HEAD":
        return web.Response(status=status)
    body: dict[str, object] = {"error": text, "status": int(status), "code": code}
    if field is not None:
        body["field"] = field
    return web.Response(status=status, body=json_bytes(body), content_type="application/json")


def _answer_to(
    request: web.Request, error: errors.ContreeError, status: HTTPStatus
) -> web.Response:
    field = error.field if isinstance(error, errors.InvalidFieldError) else None
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return error_response(request, status, "the server failed to do its part", code=error.code)
    answer = error_response(request, status, str(error), code=error.code, field=field)
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_EARLY}:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        answer.headers["Accept-Encoding"] = "identity"  # RFC 9110, 12.5.3
    return answer
