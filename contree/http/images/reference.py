"""Image references in paths and parameters: a UUID, or `tag:NAME`."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from contree.domain.errors import ContentErasedError, NotFoundError
from contree.domain.tag import parse_tag
from contree.http.as_of import Seen
from contree.http.query import parse_uuid
from contree.http.wiring import CALLER

TAG_PREFIX = "tag:"


async def referred_image(request: web.Request, seen: Seen, text: str, *, field: str) -> UUID:
    """Return the id of the image that `text` refers to, in the caller's project.

    Raises InvalidFieldError, NotFoundError, ContentErasedError.
    """
    caller = request[CALLER]
    if text.startswith(TAG_PREFIX):
        subject, name = "tag", parse_tag(text.removeprefix(TAG_PREFIX), field=field)
        row = await seen.images.by_tag(caller.project_id, name)
    else:
        subject, image_id = "image", parse_uuid(text, field=field)
        row = await seen.images.get(caller.project_id, image_id)
    await seen.record(int(row is not None))
    if row is None:
        raise NotFoundError(subject, text.removeprefix(TAG_PREFIX))
    if caller.token.erased_at is not None:
        raise ContentErasedError(caller.token.erased_at)
    return row.image_id
