"""Request bodies as bounded bytes or as a stream; what breaks off midway is refused as a whole.

Bodies come from strangers: they have a size bound, and a sender that goes silent is not waited for.
They are taken as they are: a small body with a `Content-Encoding` could become a thousand times as
much. A compressed file is a file like any other, and needs no such header.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import BadHttpMessage

from contree.domain.errors import EncodedBodyError, LimitExceededError, UploadInterruptedError

BODY_IDLE_S = 60.0
"""How long a sender may say nothing in the middle of a body."""


async def body_chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises EncodedBodyError when it is not sent as it is, and UploadInterruptedError when it ends
    before it is whole (the connection broke, a chunk is malformed, fewer bytes than
    `Content-Length` said) or stalls for BODY_IDLE_S.
    """
    coding = request.headers.get("Content-Encoding", "").strip()
    if coding.lower() not in {"", "identity"}:
        raise EncodedBodyError(
            "Content-Encoding", f"'{coding[:40]}' is not taken, send the body without an encoding"
        )
    while True:
        try:
            async with asyncio.timeout(BODY_IDLE_S):
                chunk = await request.content.readany()
        except TimeoutError as error:
            raise UploadInterruptedError(
                f"body: nothing arrived for {BODY_IDLE_S:.0f} s, nothing was kept; send it again"
            ) from error
        except (
            BadHttpMessage,
            ClientPayloadError,
            ConnectionError,
            web.PayloadAccessError,
            web.RequestPayloadError,
        ) as error:
            raise UploadInterruptedError(
                "body: ended before it was whole, nothing was kept; send it again"
            ) from error
        if not chunk:
            return
        yield chunk


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """Return the whole body. Raises LimitExceededError past `bytes_max`, and as `body_chunks`."""
    if (request.content_length or 0) > bytes_max:
        raise LimitExceededError("body", f"is larger than {bytes_max} bytes")
    body = bytearray()
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > bytes_max:
            raise LimitExceededError("body", f"is larger than {bytes_max} bytes")
    return bytes(body)
