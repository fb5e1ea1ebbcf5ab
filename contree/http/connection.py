"""One connection of a client, as far as what comes over it is not a request yet.

What is malformed may hold a token: it is neither logged nor sent back, whatever the server library
would do. `Server` names the product and no versions.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from contree.http.errors import error_response

SERVER = "contreed"

_MALFORMED = (HttpProcessingError, web.RequestPayloadError)

_log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """Answers and logs what is no HTTP without a byte of it."""

    __slots__ = ()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """The library's errors come here; those that the sender made are a line, without text."""
        if isinstance(error := kw.get("exc_info"), _MALFORMED):
            _log.info("malformed HTTP from %s: %s", self._sender(), type(error).__name__)
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """As the library's, without the text of what was malformed."""
        answer: web.StreamResponse
        if isinstance(exc, _MALFORMED):
            self.log_exception(exc_info=exc)
            if request.writer.output_size:
                raise ConnectionError("an answer has begun already")
            answer = error_response(request, status, "the request is not valid HTTP", code="http")
            answer.force_close()
        else:
            answer = super().handle_error(request, status, exc, message)
        answer.headers["Server"] = SERVER
        return answer

    def _sender(self) -> str:
        address = None if self.transport is None else self.transport.get_extra_info("peername")
        return "-" if address is None else str(address[0])


async def name_server(_: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: no answer tells the versions of what serves it."""
    response.headers["Server"] = SERVER


async def answer_expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for a body that is held back; a 417 for whatever else is expected (RFC 9110, 10.1.1)."""
    if request.version < HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        text = "Expect: is not supported, send '100-continue' or nothing"
        return error_response(request, HTTPStatus.EXPECTATION_FAILED, text, code="http")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None
