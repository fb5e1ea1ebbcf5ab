"""gzip, and only when the client asks for it by name; never another coding.

The oldest published clients send no `Accept-Encoding` and cannot decode anything; others know gzip
only. Event streams and file downloads are never compressed: events must not wait in a compressor,
and downloads go through sendfile(2) with a length.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator

from aiohttp import web

COMPRESS_BYTES_MIN = 1024
"""Below this the header costs more than the compression saves."""

LEVEL = 1
"""Archives are streamed as fast as they are read: 6 is three times slower for a tenth less."""

THREAD_BYTES_MIN = 64 * 1024
"""Smaller pieces are compressed where they are: a change of threads costs more."""

GZIP_WINDOW_BITS = 31
"""zlib: 15 bits of window, with the gzip header and trailer."""

GZIP_OFFER = re.compile(r"\s*(?:x-)?gzip\s*(?:;\s*q\s*=\s*([0-9.]{1,5}))?\s*", re.IGNORECASE)


def accepts_gzip(request: web.Request) -> bool:
    """Say whether `Accept-Encoding` names gzip with a weight above zero (RFC 9110, 12.5.3)."""
    for offer in request.headers.get("Accept-Encoding", "").split(","):
        if match := GZIP_OFFER.fullmatch(offer):
            return match[1] is None or match[1].strip("0.") != ""
    return False


def maybe_compressed(request: web.Request, response: web.Response) -> web.Response:
    """Compress a whole answer when the client accepts it and it is worth it."""
    response.headers["Vary"] = "Accept-Encoding"
    size_bytes = response.content_length or 0
    if size_bytes >= COMPRESS_BYTES_MIN and accepts_gzip(request):
        response.enable_compression(web.ContentCoding.gzip)
    return response


async def gzipped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield `chunks` as one gzip stream, trailer included."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    async for chunk in chunks:
        if len(chunk) < THREAD_BYTES_MIN:
            packed = compressor.compress(chunk)
        else:
            packed = await asyncio.to_thread(compressor.compress, chunk)
        if packed:
            yield packed
    yield compressor.flush()
