"""Request bodies as bounded bytes or as a stream; what breaks off midway is refused as a whole.

Bodies come from strangers: they have a size bound, and a sender that goes silent or sends drop by
drop is not waited for.
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

BODY_GRACE_S = 60.0
"""How long a body may be waited for in all, and a second more for each so many bytes of it:"""
UPLOAD_BYTES_PER_S_MIN = 4 * 1024
JSON_BYTES_PER_S_MIN = 64 * 1024
"""With the bound on its size, a JSON body is here within ten minutes or not at all."""


async def body_chunks(
    request: web.Request, *, bytes_per_s_min: int = UPLOAD_BYTES_PER_S_MIN
) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises EncodedBodyError when it is not sent as it is, and UploadInterruptedError when it ends
    before it is whole (the connection broke, a chunk is malformed, fewer bytes than
    `Content-Length` said), stalls for BODY_IDLE_S, or comes more slowly than `bytes_per_s_min`.
    Only waiting for the sender counts, not what is done with the bytes.
    """
    coding = request.headers.get("Content-Encoding", "").strip()
    if coding.lower() not in {"", "identity"}:
        raise EncodedBodyError(
            "Content-Encoding", f"'{coding[:40]}' is not taken, send the body without an encoding"
        )
    time_s = asyncio.get_running_loop().time
    waited_s, size_bytes = 0.0, 0
    while True:
        began_s = time_s()
        allowed_s = BODY_GRACE_S + size_bytes / bytes_per_s_min
        try:
            async with asyncio.timeout(min(BODY_IDLE_S, allowed_s - waited_s)):
                chunk = await request.content.readany()
        except TimeoutError as error:
            raise UploadInterruptedError(
                f"body: {size_bytes} bytes came in {waited_s + time_s() - began_s:.0f} s, and then "
                f"nothing; a silence may last {BODY_IDLE_S:.0f} s, all of it {BODY_GRACE_S:.0f} s "
                f"and 1 s for each {bytes_per_s_min} bytes; nothing was kept, send it again"
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
        waited_s += time_s() - began_s
        size_bytes += len(chunk)
        yield chunk


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """Return the whole body. Raises LimitExceededError past `bytes_max`, and as `body_chunks`."""
    if (request.content_length or 0) > bytes_max:
        raise LimitExceededError("body", f"is larger than {bytes_max} bytes")
    body = bytearray()
    async for chunk in body_chunks(request, bytes_per_s_min=JSON_BYTES_PER_S_MIN):
        body += chunk
        if len(body) > bytes_max:
            raise LimitExceededError("body", f"is larger than {bytes_max} bytes")
    return bytes(body)
