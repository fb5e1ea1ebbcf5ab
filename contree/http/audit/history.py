"""`/v1/audit/events` and lineage: the recorded history of the caller's project.

A page is JSON; with `follow` the history goes on as it is made, as Server-Sent Events or NDJSON,
from any position and without a gap. A feed holds one position for its reader and queues nothing:
one who does not read for STALL_S is dropped, and goes on from the id that it saw last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiohttp import web

from contree.app.audit.ask_audit import Query
from contree.app.audit.audit_reads import AuditEntry, Lineage, MakingOperation, RelatedImage, Span
from contree.app.audit.cloud_event import cloud_event
from contree.domain.context import Context
from contree.domain.errors import ContreeError
from contree.http.answers import json_answer
from contree.http.as_of import recorded_query
from contree.http.audit.history_query import (
    NDJSON,
    feed_span_of,
    filter_of,
    last_seen_of,
    limit_of,
    newest_first_of,
    span_of,
    wants_ndjson,
)
from contree.http.execution import events
from contree.http.json_text import json_bytes
from contree.http.query import flag_of, number_of, uuid_in_path
from contree.http.token_watch import TOKENS, WITHDRAWN
from contree.http.wiring import CALLER, CLOSING, REQUEST_ID, SERVICES

DEPTH_DEFAULT = 100
DEPTH_MAX = 10_000
IMAGES_DEFAULT = 1000
IMAGES_MAX = 10_000
NDJSON_HEADERS = events.HEADERS | {"Content-Type": NDJSON}
NDJSON_KEEPALIVE = b"\n"
BROKEN = b"the log could not be read"

_log = logging.getLogger(__name__)


async def list_events(request: web.Request) -> web.StreamResponse:
    """A page of the history; with `follow` all of it, and what comes."""
    audit = request.app[SERVICES].audit
    reader = audit.reader(request[CALLER])
    query = recorded_query(request)
    if flag_of(request, "follow"):
        return await _feed(request, reader, query)
    # Refused when they are wrong, though they say nothing about a page.
    wants_ndjson(request)
    last_seen_of(request)
    newest_first = newest_first_of(request)
    found, head = await audit.events(
        reader,
        filter_of(request),
        span_of(request, newest_first=newest_first),
        limit=limit_of(request),
        newest_first=newest_first,
        query=query,
    )
    value = {
        "events": [cloud_event(entry) for entry in found.entries],
        "next": _cursor(found.rest, newest_first=newest_first),
        "head": str(head),
    }
    return json_answer(request, value)


async def show_lineage(request: web.Request) -> web.Response:
    """Ancestors up to the import, the image, and its descendants."""
    audit = request.app[SERVICES].audit
    reader = audit.reader(request[CALLER])
    found = await audit.lineage(
        reader,
        reader.project_id,
        uuid_in_path(request, "image_uuid"),
        depth=number_of(request, "depth", default=DEPTH_DEFAULT, low=1, high=DEPTH_MAX),
        limit=number_of(request, "limit", default=IMAGES_DEFAULT, low=1, high=IMAGES_MAX),
        query=recorded_query(request),
    )
    return json_answer(request, lineage_value(found))


def lineage_value(found: Lineage) -> dict[str, Any]:
    return {
        "image": found.image_id,
        "images": [related_image_value(image) for image in found.images],
        "truncated": found.truncated,
    }


def related_image_value(image: RelatedImage) -> dict[str, Any]:
    return {
        "uuid": image.image_id,
        "parent_uuid": image.parent_image_id,
        "depth": image.depth,
        "created_at": image.created_at,
        "tags": image.tags,
        "operation": None if image.operation is None else _made_by(image.operation),
    }


def _made_by(row: MakingOperation) -> dict[str, Any]:
    """The operation that left an image; a run has a command, an import a registry URL."""
    return {
        "uuid": row.operation_id,
        "kind": row.kind,
        "command": row.command,
        "args": row.args,
        "registry_url": row.registry_url,
        "exit_code": row.exit_code,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "duration": row.duration_us / 1_000_000,
    }


def _cursor(rest: Span | None, *, newest_first: bool) -> str | None:
    if rest is None:
        return None
    return str(rest.until if newest_first else rest.after)


async def _feed(request: web.Request, reader: Context, query: Query) -> web.StreamResponse:
    as_ndjson = wants_ndjson(request)
    batches = await request.app[SERVICES].audit.feed(
        reader,
        filter_of(request),
        feed_span_of(request),
        quiet_s=events.KEEPALIVE_S,
        query=query,
    )
    broken = _broken_off(as_ndjson, BROKEN)
    response = web.StreamResponse(headers=NDJSON_HEADERS if as_ndjson else events.HEADERS)
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        try:
            async with request.app[TOKENS].watched(request[CALLER]) as withdrawn:
                until_its_end = _until((request.app[CLOSING], withdrawn), batches)
                async with contextlib.aclosing(batches), contextlib.aclosing(until_its_end):
                    async for entries in until_its_end:
                        for piece in _pieces(entries, as_ndjson=as_ndjson):
                            async with asyncio.timeout(events.STALL_S):
                                await response.write(piece)
                if withdrawn.is_set():
                    await response.write(_broken_off(as_ndjson, WITHDRAWN))
        except ContreeError as error:
            _log.warning("request_id=%s feed broke off: %s", request[REQUEST_ID], error)
            await response.write(broken)
        except TimeoutError:
            await events.drop(request, response, last=_broken_off(as_ndjson, events.UNREAD))
            return response
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    return response


async def _until(
    ends: Sequence[asyncio.Event], batches: AsyncGenerator[Sequence[AuditEntry], None]
) -> AsyncGenerator[Sequence[AuditEntry], None]:
    """Yield from `batches` until one of `ends` is set, also while there is always more."""
    ended = [asyncio.create_task(end.wait()) for end in ends]
    step: asyncio.Task[Sequence[AuditEntry]] | None = None
    try:
        while not any(end.is_set() for end in ends):
            step = asyncio.ensure_future(anext(batches))
            await asyncio.wait({*ended, step}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                return
            yield step.result()
    finally:
        for task in (*ended, step):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task})


def _pieces(entries: Sequence[AuditEntry], *, as_ndjson: bool) -> list[bytes]:
    """Frames joined to pieces of about WRITE_BYTES_MAX; a keepalive when there is none."""
    if not entries:
        return [NDJSON_KEEPALIVE if as_ndjson else events.KEEPALIVE]
    pieces: list[bytes] = []
    waiting: list[bytes] = []
    size_bytes = 0
    for entry in entries:
        text = json_bytes(cloud_event(entry))
        if as_ndjson:
            frame = text + b"\n"
        else:
            type_ = entry.event.topic.encode()
            frame = b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.event.position, type_, text)
        waiting.append(frame)
        size_bytes += len(frame)
        if size_bytes >= events.WRITE_BYTES_MAX:
            pieces.append(b"".join(waiting))
            waiting, size_bytes = [], 0
    return [*pieces, b"".join(waiting)] if waiting else pieces


def _broken_off(as_ndjson: bool, why: bytes) -> bytes:
    """What a reader sees last of a feed that ends before its time."""
    return b'{"error":"%s"}\n' % why if as_ndjson else events.BROKEN_OFF % why
