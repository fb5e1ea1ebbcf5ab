"""`/operations/{uuid}/events`: the journal of an operation as Server-Sent Events.

    frame      id: N / event: TYPE / data: {one-line JSON} / empty line
    keepalive  a comment line while nothing happens
    the last   `completion`, derived from the operation's terminal row and numbered one higher than
               the last entry, so that it is there exactly when the log says that it has ended

A follower is held open, also while the operation waits for a worker, until `completion` is sent,
the client goes, or the server closes; then it reconnects with the id it saw last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contree.app.journal import Journal, NumberedEntry
from contree.app.reads import OperationRow
from contree.domain.errors import ContreeError
from contree.domain.token import Permission
from contree.http.json_text import json_bytes
from contree.http.operations import operation_in_path
from contree.http.query import flag_of, whole_number
from contree.http.wiring import CALLER, CLOSING, REQUEST_ID, SERVICES

READ_MAX = 500
NUMBER_MAX = 2**53
POLL_FIRST_S = 0.01
POLL_LAST_S = 0.25
"""How often a follower looks: soon after something happened, then less and less."""

KEEPALIVE_S = 10.0
KEEPALIVE = b": keepalive\n\n"
BROKEN_OFF = (
    b": stream ended with error, retry since last event id\n\n"
    b"event: sse_error\ndata: the journal could not be read\n\n"
)
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the client asks for: entries numbered above `after`, of one process or all."""

    follow: bool
    after: int
    spid: int | None


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Send what there is, and with `follow` what comes, until the operation has ended."""
    wanted = _wanted(request)
    if wanted.follow:
        _require_spawn(request)
    row = await operation_in_path(request)
    response = web.StreamResponse(headers=HEADERS)
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        try:
            async for frames in _frames(request, row, wanted):
                await response.write(frames)
        except ContreeError as error:
            _log.warning("request_id=%s events broke off: %s", request[REQUEST_ID], error)
            await response.write(BROKEN_OFF)
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    return response


def _require_spawn(request: web.Request) -> None:
    """A follower needs one of the two spawn permissions on top of `list`."""
    caller = request[CALLER]
    if Permission.SPAWN_DISPOSABLE.value not in caller.token.permissions:
        caller.require(Permission.SPAWN)


def _wanted(request: web.Request) -> _Wanted:
    """Read the query; the `Last-Event-Id` header wins over `since`. Raises InvalidFieldError."""
    since, spid = (_number(name, request.query.get(name)) for name in ("since", "spid"))
    last_seen = _number("Last-Event-Id", request.headers.get("Last-Event-Id"))
    after = since if last_seen is None else last_seen
    return _Wanted(
        follow=flag_of(request, "follow"), after=-1 if after is None else after, spid=spid
    )


def _number(field: str, text: str | None) -> int | None:
    return None if text is None else whole_number(text, field=field, low=0, high=NUMBER_MAX)


async def _frames(request: web.Request, row: OperationRow, wanted: _Wanted) -> AsyncIterator[bytes]:
    """Yield frames (and keepalives) in order until there is nothing more to come."""
    services = request.app[SERVICES]
    closing = request.app[CLOSING]
    operation_id, after = row.operation_id, wanted.after
    pause_s, silent_s = POLL_FIRST_S, 0.0
    while not closing.is_set() and not _is_gone(request):
        # The status is older than the entries: what a terminal operation wrote is all there.
        entries = await services.journal.read(operation_id, after=after, limit=READ_MAX)
        if entries:
            after = entries[-1].number
            pause_s, silent_s = POLL_FIRST_S, 0.0
            if frames := _frames_of(entries, wanted.spid):
                yield frames
            continue
        if row.status.is_terminal:
            if wanted.spid is None and await _completion_is_due(
                services.journal, row, after=after, resumed=after == wanted.after
            ):
                yield _frame(after + 1, _completion(row, services.clock.now().isoformat()))
            return
        if not wanted.follow:
            return
        try:
            await asyncio.wait_for(closing.wait(), pause_s)
        except TimeoutError:
            silent_s += pause_s
            pause_s = min(POLL_LAST_S, pause_s * 1.5)
        if silent_s >= KEEPALIVE_S:
            yield KEEPALIVE
            silent_s = 0.0
        current = await services.operations.get(row.project_id, operation_id)
        if current is None:
            return
        row = current


async def _completion_is_due(
    journal: Journal, row: OperationRow, *, after: int, resumed: bool
) -> bool:
    """Say whether `completion` is still to be sent to a client that has seen `after`.

    Its number is one above the last entry's. A client that resumes may have seen it, or asks for
    what lies beyond the end: then nothing follows. An attempt that was lost may have left no entry
    at all, though its followers have seen some: then it does follow.
    """
    if not resumed or after < 0:
        return True
    around = await journal.read(row.operation_id, after=after - 1, limit=1)
    if around:
        return True
    return not await journal.read(row.operation_id, limit=1)


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _frames_of(entries: Sequence[NumberedEntry], spid: int | None) -> bytes:
    return b"".join(
        _frame(
            numbered.number,
            {
                "id": numbered.number,
                "ts": numbered.entry.at,
                "spid": numbered.entry.spid,
                "type": numbered.entry.type,
                "data": numbered.entry.data,
            },
        )
        for numbered in entries
        if spid is None or numbered.entry.spid == spid
    )


def _completion(row: OperationRow, now: str) -> dict[str, Any]:
    """The operation's end. It belongs to no process, so it has no `spid`."""
    return {
        "ts": now if row.finished_at is None else row.finished_at,
        "type": "completion",
        "data": {
            "status": row.status,
            "duration_ms": row.duration_us // 1000,
            "result_image_uuid": row.result_image_id,
            "error": row.error,
            "image_size_bytes": row.image_size_bytes,
        },
    }


def _frame(number: int, event: dict[str, Any]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        number,
        event["type"].encode(),
        json_bytes({"id": number, **event}),
    )
