"""`/files`: upload content, and ask whether it is here already."""

from __future__ import annotations

import re

from aiohttp import web

from contree.app.reads import FileRow
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.query import page_of
from contree.http.render import file_value, uploaded_file_value
from contree.http.request_body import body_chunks
from contree.http.wiring import CALLER, SERVICES

SHA256_TEXT = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


async def upload_file(request: web.Request) -> web.Response:
    """Keep the body as a file; equal content gives the same file. Streamed, empty is fine."""
    row = await request.app[SERVICES].uploads.upload(request[CALLER], body_chunks(request))
    return json_answer(request, uploaded_file_value(row), status=201)


async def list_files(request: web.Request) -> web.Response:
    """The newest first; with `sha256`, as older clients ask, that one record or a 404."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    page = page_of(request)
    sha256 = request.query.get("sha256")
    if sha256 is not None:
        return json_answer(request, file_value(await _by_sha256(request, sha256)))
    rows = await request.app[SERVICES].files.list(caller.project_id, page)
    return json_answer(request, {"files": [file_value(row) for row in rows]})


async def get_file(request: web.Request) -> web.Response:
    """What is known of the content with this SHA-256, in either case of letters."""
    request[CALLER].require(Permission.LIST)
    row = await _by_sha256(request, request.match_info["sha256"])
    return json_answer(request, file_value(row))


async def _by_sha256(request: web.Request, text: str) -> FileRow:
    if not SHA256_TEXT.fullmatch(text):
        raise InvalidFieldError("sha256", "is not a SHA-256, give 64 hexadecimal digits")
    project_id = request[CALLER].project_id
    row = await request.app[SERVICES].files.by_sha256(project_id, text.lower())
    if row is None:
        raise NotFoundError("file", text.lower())
    return row
