"""File contents and archives as answers: streamed, never held whole.

Bytes that lie in one piece in a local file go out by sendfile(2). A client that goes away, or does
not read, ends the answer quietly; a source that fails breaks the connection off, so that nobody
takes half for whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import closing
from pathlib import Path

from aiohttp import web

from contree.app.images.layer_store import FileContent
from contree.http.compression import accepts_gzip, gzipped
from contree.http.reading_client import sendfile, write

WHOLE_BYTES_MAX = 64 * 1024
"""Up to here an answer is one write; beyond, a file is handed to sendfile."""

RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
NOSNIFF = {"X-Content-Type-Options": "nosniff"}
"""What an image holds is anybody's: a browser must not guess at it."""


async def content_answer(
    request: web.Request, content: FileContent, *, content_type: str
) -> web.StreamResponse:
    """Answer with the bytes of a file, or the one range of them that is asked for.

    Several ranges, and conditions on a range, are answered with the whole file (RFC 9110, 14.2).
    """
    size_bytes = content.entry.size_bytes
    span = _span(request, size_bytes)
    headers = NOSNIFF | {"Accept-Ranges": "bytes", "Content-Type": content_type}
    if span is None:
        await discard(content.chunks)
        headers["Content-Range"] = f"bytes */{size_bytes}"
        return web.Response(status=416, headers=headers)
    start, count = span
    status = 200
    if count != size_bytes:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size_bytes}"
    if request.method == "HEAD":
        await discard(content.chunks)
        return web.Response(status=status, headers=headers | {"Content-Length": str(count)})
    if count <= WHOLE_BYTES_MAX:
        pieces = [piece async for piece in _cut(content.chunks, start, count)]
        return web.Response(status=status, headers=headers, body=b"".join(pieces))
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = count
    try:
        await response.prepare(request)
        if content.source is None:
            async for piece in _cut(content.chunks, start, count):
                await write(request, response, piece)
        else:
            await discard(content.chunks)
            await _sendfile(request, content.source, content.offset + start, count)
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    return response


async def archive_answer(
    request: web.Request, chunks: AsyncIterator[bytes], *, filename: str
) -> web.StreamResponse:
    """Answer with a tar."""
    headers = NOSNIFF | {
        "Content-Type": "application/x-tar",
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    return await streamed_answer(request, chunks, headers=headers)


async def streamed_answer(
    request: web.Request, chunks: AsyncIterator[bytes], *, headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with bytes of unknown length, in chunks, as gzip when the client accepts it."""
    headers = headers | {"Vary": "Accept-Encoding"}
    if request.method == "HEAD":
        await discard(chunks)
        return web.Response(headers=headers)
    if accepts_gzip(request):
        headers["Content-Encoding"] = "gzip"
        chunks = gzipped(chunks)
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        async for chunk in chunks:
            await write(request, response, chunk)
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    finally:
        await discard(chunks)
    return response


async def discard(chunks: AsyncIterator[bytes]) -> None:
    """Close a source that is not read to its end, so that its files are closed now."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


def _span(request: web.Request, size_bytes: int) -> tuple[int, int] | None:
    """Return (start, count) of what to send; None when the range lies outside the file."""
    match = RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if match is None or not (match[1] or match[2]) or "If-Range" in request.headers:
        return 0, size_bytes
    if not match[1]:  # the last so many bytes
        count = min(int(match[2]), size_bytes)
        return (size_bytes - count, count) if count else None
    start = int(match[1])
    last = min(int(match[2] or size_bytes), size_bytes - 1)
    if match[2] and int(match[2]) < start:
        return 0, size_bytes
    return (start, last - start + 1) if start < size_bytes else None


async def _cut(chunks: AsyncIterator[bytes], start: int, count: int) -> AsyncIterator[bytes]:
    """Yield `count` bytes from `start` on. Raises EOFError when the source is shorter."""
    skip, left = start, count
    try:
        if left == 0:
            return
        async for chunk in chunks:
            piece = chunk[skip : skip + left]
            skip -= min(skip, len(chunk))
            left -= len(piece)
            if piece:
                yield piece
            if left == 0:
                return
        raise EOFError(f"the content ended {left} bytes early")
    finally:
        await discard(chunks)


async def _sendfile(request: web.Request, source: Path, offset: int, count: int) -> None:
    with closing(await asyncio.to_thread(source.open, "rb")) as file:
        sent = await sendfile(request, file, offset, count)
    if sent != count:
        raise EOFError(f"{source.name} ended {count - sent} bytes early")
