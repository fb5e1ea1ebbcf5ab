"""`/v1/images/{a}/diff/{b}`: what differs between two images, without running anything."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from enum import StrEnum

from aiohttp import web

from contree.app.images.compare_images import DiffOptions, ImagePair
from contree.app.images.diff_text import name_status_text, stat_text
from contree.domain.errors import InvalidFieldError
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.images.diff_value import change_value, ndjson_text, summary_value
from contree.http.images.file_answer import NOSNIFF, streamed_answer
from contree.http.images.reference import referred_image
from contree.http.query import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    choice_of,
    flag_of,
    guest_paths_of,
    number_of,
    text_of,
)
from contree.http.wiring import CALLER, SERVICES

PATHS_MAX = 16
WRITE_BYTES_MIN = 64 * 1024
NDJSON = "application/x-ndjson"


class DiffFormat(StrEnum):
    """JSON is a page; the others are all of it, streamed."""

    JSON = "json"
    NDJSON = "ndjson"
    STAT = "stat"
    NAME_STATUS = "name-status"
    PATCH = "patch"


async def show_diff(request: web.Request) -> web.StreamResponse:
    """Changes from the first image to the second, in one of the forms."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    form = choice_of(request, "format", DiffFormat) or DiffFormat.JSON
    options = _options(request)
    limit = number_of(request, "limit", default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX)
    beyond = _cursor(request)
    seen = await seen_by(request)
    before, after = [
        await referred_image(request, seen, request.match_info[name], field=name)
        for name in ("image", "other_image")
    ]
    compare = request.app[SERVICES].diffs
    pair = await compare.pair(caller.project_id, before, after)
    if form is not DiffFormat.JSON:
        type_ = NDJSON if form is DiffFormat.NDJSON else "text/plain; charset=utf-8"
        pieces = await _begun(_gathered(_pieces(request, form, pair, options)))
        headers = NOSNIFF | seen.headers | {"Content-Type": type_}
        return await streamed_answer(request, pieces, headers=headers)
    page = await compare.page(pair, options, limit=limit, beyond=beyond)
    value = {
        "from": pair.before_id,
        "to": pair.after_id,
        "base": pair.base,
        "summary": summary_value(page.summary),
        "changes": [change_value(change) for change in page.changes],
        "next": None if page.next_path is None else _cursor_of(page.next_path),
    }
    return json_answer(request, value, headers=seen.headers)


def _options(request: web.Request) -> DiffOptions:
    paths = guest_paths_of(request, default="/", count_max=PATHS_MAX)
    return DiffOptions(
        paths=tuple(path for _, path in paths),
        times=flag_of(request, "metadata"),
        renames=request.query.get("renames") != "0",
    )


def _pieces(
    request: web.Request, form: DiffFormat, pair: ImagePair, options: DiffOptions
) -> AsyncGenerator[bytes, None]:
    compare = request.app[SERVICES].diffs
    match form:
        case DiffFormat.STAT:
            return stat_text(compare, pair, options)
        case DiffFormat.NAME_STATUS:
            return name_status_text(compare, pair, options, nul=flag_of(request, "z"))
        case DiffFormat.PATCH:
            return compare.patch(pair, options, binary=flag_of(request, "binary"))
        case _:
            return ndjson_text(compare, pair, options)


async def _gathered(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces, small ones joined."""
    waiting, size_bytes = [], 0
    try:
        async for piece in pieces:
            waiting.append(piece)
            size_bytes += len(piece)
            if size_bytes >= WRITE_BYTES_MIN:
                yield b"".join(waiting)
                waiting, size_bytes = [], 0
        yield b"".join(waiting)
    finally:
        await pieces.aclose()


async def _begun(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """Return the pieces when the first is there: what fails before it is an answer of its own."""
    first = await anext(pieces)

    async def all_of_them() -> AsyncGenerator[bytes, None]:
        try:
            if first:
                yield first
            async for piece in pieces:
                if piece:
                    yield piece
        finally:
            await pieces.aclose()

    return all_of_them()


def _cursor_of(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode("utf-8", "surrogateescape")).decode()


def _cursor(request: web.Request) -> str | None:
    text = text_of(request, "cursor")
    if text is None:
        return None
    try:
        path = base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidFieldError("cursor", "is no `next` of a page of this diff") from error
    return path.decode("utf-8", "surrogateescape")
