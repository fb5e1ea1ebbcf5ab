"""`/inspect`: look into an image without running anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from functools import partial

from aiohttp import web

from contree.app.images.layer_store import FileEntry
from contree.domain.errors import ContentErasedError, InvalidFieldError, NotFoundError
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.compression import maybe_compressed
from contree.http.images.file_answer import archive_answer, content_answer, streamed_answer
from contree.http.images.file_listing import file_item, listing_text
from contree.http.json_text import json_bytes
from contree.http.query import (
    LIMIT_MAX,
    OFFSET_MAX,
    guest_path_of,
    number_of,
    text_of,
    uuid_in_path,
)
from contree.http.render import image_value
from contree.http.wiring import CALLER, SERVICES

RENDER_INLINE_MAX = 1000
"""Longer listings are rendered in pieces, or as text in a thread: other requests need not wait."""

FILENAME_REFUSED = re.compile(r"[^A-Za-z0-9._+-]")


async def redirect_to_slash(request: web.Request) -> web.Response:
    """Answer 307 to the same path with a slash, relative, so that it survives a path prefix."""
    if "image_uuid" in request.match_info:
        uuid_in_path(request, "image_uuid")
    last = request.rel_url.raw_path.rsplit("/", 1)[-1]
    query = request.rel_url.raw_query_string
    location = f"{last}/?{query}" if query else f"{last}/"
    return web.Response(status=307, headers={"Location": location})


async def find_by_tag(request: web.Request) -> web.Response:
    """Answer 302 to the image that `tag` points at; clients read the id out of `Location`."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    tag = text_of(request, "tag")
    if not tag:
        raise InvalidFieldError("tag", "is missing, name a tag")
    seen = await seen_by(request)
    row = await seen.images.by_tag(caller.project_id, tag)
    await seen.record(int(row is not None))
    if row is None:
        raise NotFoundError("tag", tag)
    location = {"Location": f"{row.image_id}/"}
    return web.Response(status=302, headers=location | seen.headers)


async def get_image(request: web.Request) -> web.Response:
    caller = request[CALLER]
    caller.require(Permission.LIST)
    image_id = uuid_in_path(request, "image_uuid")
    seen = await seen_by(request)
    row = await seen.images.get(caller.project_id, image_id)
    await seen.record(int(row is not None))
    if row is None:
        raise NotFoundError("image", image_id)
    return json_answer(request, image_value(row), headers=seen.headers)


async def list_directory(request: web.Request) -> web.StreamResponse:
    """JSON, or with `text` (in any form) what `ls -l` would print; all of it, or a page.

    Long JSON goes out in pieces: there is never more of it than one of them.
    """
    limit = number_of(request, "limit", default=OFFSET_MAX, low=1, high=LIMIT_MAX)
    offset = number_of(request, "offset", default=0, low=0, high=OFFSET_MAX)
    layers = await readable_layers(request)
    asked, path = guest_path_of(request)
    services = request.app[SERVICES]
    entries = (await services.image_files.list(layers, path))[offset : offset + limit]
    if "text" in request.query:
        render = partial(listing_text, entries, now=services.clock.now())
        is_short = len(entries) <= RENDER_INLINE_MAX
        body = render() if is_short else await asyncio.to_thread(render)
        text = web.Response(body=body, content_type="text/plain", charset="utf-8")
        return maybe_compressed(request, text)
    if len(entries) > RENDER_INLINE_MAX:
        pieces = _listing_pieces(asked, entries)
        return await streamed_answer(request, pieces, headers={"Content-Type": "application/json"})
    return json_answer(request, {"path": asked, "files": [file_item(e) for e in entries]})


async def download(request: web.Request) -> web.StreamResponse:
    """The bytes of one regular file; symbolic links are followed inside the image."""
    layers = await readable_layers(request)
    _, path = guest_path_of(request)
    content = await request.app[SERVICES].image_files.open(layers, path)
    as_text = "text" in request.query
    content_type = "text/plain; charset=utf-8" if as_text else "application/octet-stream"
    return await content_answer(request, content, content_type=content_type)


async def archive(request: web.Request) -> web.StreamResponse:
    """A pax tar of a directory or one file."""
    layers = await readable_layers(request)
    _, path = guest_path_of(request)
    chunks = await request.app[SERVICES].image_files.archive(layers, path)
    return await archive_answer(request, chunks, filename=_archive_name(path))


async def readable_layers(request: web.Request) -> Sequence[str]:
    """Return the layers of the image that the path names, if the caller may read its files.

    Raises PermissionMissingError, NotFoundError, ContentErasedError.
    """
    caller = request[CALLER]
    caller.require(Permission.LIST)
    image_id = uuid_in_path(request, "image_uuid")
    layers = await request.app[SERVICES].images.stack(caller.project_id, image_id)
    if caller.token.erased_at is not None:
        raise ContentErasedError(caller.token.erased_at)
    return layers


async def _listing_pieces(asked: str, entries: Sequence[FileEntry]) -> AsyncIterator[bytes]:
    """Yield the same JSON as that of a short listing, RENDER_INLINE_MAX entries at a time."""
    begin = b'{"path":%s,"files":[' % json_bytes(asked)
    for at in range(0, len(entries), RENDER_INLINE_MAX):
        items = json_bytes([file_item(entry) for entry in entries[at : at + RENDER_INLINE_MAX]])
        yield begin + items[1:-1]  # without the brackets of the piece
        begin = b","
    yield b"]}"


def _archive_name(path: str) -> str:
    """`/etc/passwd` is `etc_passwd.tar`, the root `rootfs.tar`."""
    return f"{FILENAME_REFUSED.sub('_', path.strip('/')) or 'rootfs'}.tar"
