"""`/v1/images/{image}/log`: how an image came to be, and which of its runs changed a path."""

from __future__ import annotations

import base64

from aiohttp import web

from contree.app.images.image_log import LogPlace
from contree.domain.errors import ContreeError, InvalidFieldError
from contree.domain.guest_path import parse_guest_path
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.images.diff import PATHS_MAX
from contree.http.images.log_value import log_entry_value
from contree.http.images.reference import referred_image
from contree.http.query import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    flag_of,
    guest_paths_of,
    number_of,
    parse_uuid,
    text_of,
)
from contree.http.wiring import CALLER, SERVICES

NUL = b"\0"


async def show_log(request: web.Request) -> web.Response:
    """A page of the log, the newest image first."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    limit = number_of(request, "limit", default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX)
    paths: tuple[str, ...] = ()
    if "path" in request.query:
        asked = guest_paths_of(request, default="/", count_max=PATHS_MAX)
        paths = tuple(path for _, path in asked)
    cursor = _cursor(request)
    seen = await seen_by(request)
    image_id = await referred_image(request, seen, request.match_info["image"], field="image")
    place = cursor or LogPlace(image_id=image_id, paths=paths)
    page = await request.app[SERVICES].image_log.page(
        caller.project_id, place, follow=flag_of(request, "follow"), limit=limit
    )
    value = {
        "entries": [log_entry_value(entry) for entry in page.entries],
        "next": None if page.rest is None else _cursor_of(page.rest),
    }
    return json_answer(request, value, headers=seen.headers)


def _cursor_of(place: LogPlace) -> str:
    parts = [str(place.image_id), *place.paths]
    raw = NUL.join(part.encode("utf-8", "surrogateescape") for part in parts)
    return base64.urlsafe_b64encode(raw).decode()


def _cursor(request: web.Request) -> LogPlace | None:
    text = text_of(request, "cursor")
    if text is None:
        return None
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        image, *paths = (part.decode("utf-8", "surrogateescape") for part in raw.split(NUL))
        return LogPlace(
            image_id=parse_uuid(image, field="cursor"),
            paths=tuple(parse_guest_path(path, field="cursor") for path in paths[:PATHS_MAX]),
        )
    except (ValueError, ContreeError) as error:
        raise InvalidFieldError("cursor", "is no `next` of a page of this log") from error
