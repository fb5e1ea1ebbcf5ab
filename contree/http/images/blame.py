"""`/v1/images/{image}/blame`: which run wrote each line, or last changed each entry."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from contree.app.images.ancestry import LineImage
from contree.app.images.blame import Blamed, BlamedLines
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.images.diff_value import bytes_value
from contree.http.images.reference import referred_image
from contree.http.query import guest_path_of
from contree.http.wiring import CALLER, SERVICES


async def show_blame(request: web.Request) -> web.Response:
    """Lines of a text file, those of one run together, or the entries of a directory."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    _, path = guest_path_of(request)
    seen = await seen_by(request)
    image_id = await referred_image(request, seen, request.match_info["image"], field="image")
    found = await request.app[SERVICES].blame.of(caller.project_id, image_id, path)
    return json_answer(request, blame_value(found), headers=seen.headers)


def blame_value(found: Blamed) -> dict[str, Any]:
    value: dict[str, Any] = bytes_value("path", found.path)
    if found.is_directory:
        return value | {
            "children": [
                bytes_value("path", child.path) | _made(child.image) for child in found.children
            ]
        }
    return value | {"lines": [_lines(some) for some in found.lines]}


def _lines(some: BlamedLines) -> dict[str, Any]:
    return {
        "line": some.line,
        "count": len(some.texts),
        **_made(some.image),
        "text": b"".join(some.texts).removesuffix(b"\n").decode("utf-8", "replace"),
    }


def _made(image: LineImage) -> dict[str, Any]:
    return {"image": image.image_id, "operation": image.operation_id, "at": image.created_at}
