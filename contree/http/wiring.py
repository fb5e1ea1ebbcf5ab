"""What handlers find on the application and on each request, under typed keys."""

from __future__ import annotations

import asyncio

from aiohttp import web

from contree.app.access import Caller
from contree.app.services import Services

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
"""The use cases and ports this server answers with."""

CLOSING: web.AppKey[asyncio.Event] = web.AppKey("closing", asyncio.Event)
"""Set when the server shuts down: open streams end."""

CALLER = web.RequestKey("caller", Caller)
"""Who asks; set by the authentication middleware."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Ties the answer, the log lines and the recorded events of one request together."""

STARTED = web.RequestKey("started", bool)
"""Set when the head of an answer goes out, so that no error body may follow."""
