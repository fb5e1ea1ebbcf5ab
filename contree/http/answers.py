"""Whole JSON answers."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from contree.http.compression import maybe_compressed
from contree.http.json_text import json_bytes


def json_answer(
    request: web.Request, value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return `value` as JSON, compressed when the client asks for it."""
    response = web.Response(
        body=json_bytes(value), status=status, content_type="application/json", headers=headers
    )
    return maybe_compressed(request, response)
