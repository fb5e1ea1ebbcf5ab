"""`/images`: list, import, tag."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from aiohttp import web

from contree.app.reads import ImageRow
from contree.app.request_run import TAG_PREFIX
from contree.domain.errors import NotFoundError
from contree.domain.tag import parse_tag
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.decode import decode_import, decode_tag
from contree.http.query import TAG_PREFIX_TEXT, flag_of, page_of, parse_uuid, text_of
from contree.http.render import image_value
from contree.http.request_body import read_body
from contree.http.wiring import CALLER, SERVICES


async def list_images(request: web.Request) -> web.Response:
    """One row for each (image, tag). A `tag` prefix that no tag can have finds nothing."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    seen = await seen_by(request)
    page = page_of(request, now=seen.now)
    uuid_text = request.query.get("uuid")
    image_id = None if uuid_text is None else parse_uuid(uuid_text, field="uuid")
    prefix = text_of(request, "tag")
    rows: Sequence[ImageRow] = ()
    if prefix is None or TAG_PREFIX_TEXT.fullmatch(prefix):
        rows = await seen.images.list(
            caller.project_id,
            page,
            tagged=flag_of(request, "tagged") or prefix is not None,
            tag_prefix=prefix,
            image_id=image_id,
        )
    await seen.record(len(rows))
    return json_answer(
        request, {"images": [image_value(row) for row in rows]}, headers=seen.headers
    )


async def import_image(request: web.Request) -> web.Response:
    """Accept an import. What the registry says is the operation's to tell."""
    services = request.app[SERVICES]
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    operation_id = await services.imports.request(request[CALLER], decode_import(body))
    headers = {"Location": f"/v1/operations/{operation_id}"}
    return json_answer(request, {"uuid": operation_id}, status=201, headers=headers)


async def assign_tag(request: web.Request) -> web.Response:
    """Point a tag at the image; it leaves the image it pointed at before."""
    services = request.app[SERVICES]
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    tag = decode_tag(body)
    row = await services.tags.assign(request[CALLER], await _image_in_path(request), tag)
    return json_answer(request, image_value(row))


async def remove_tag(request: web.Request) -> web.Response:
    """Remove one tag, or without `tag` all of them."""
    image_id = await _image_in_path(request)
    await request.app[SERVICES].tags.remove(request[CALLER], image_id, text_of(request, "tag"))
    return web.Response(status=204)


async def _image_in_path(request: web.Request) -> UUID:
    """The image is named by its id, or as in older clients' URLs by `tag:NAME`."""
    name = request.match_info["image_uuid"]
    if not name.startswith(TAG_PREFIX):
        return parse_uuid(name, field="image_uuid")
    caller = request[CALLER]
    tag = parse_tag(name.removeprefix(TAG_PREFIX), field="image_uuid")
    row = await request.app[SERVICES].images.by_tag(caller.project_id, tag)
    if row is None:
        raise NotFoundError("tag", tag)
    return row.image_id
