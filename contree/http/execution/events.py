"""`/operations/{uuid}/events`: the journal of an operation as Server-Sent Events.

    keepalive  a comment line while nothing happens
    the last   `completion`, derived from the operation's terminal row and numbered above every
               entry, so that it is there exactly when the log says that it has ended

A follower is held open, also while the operation waits for a worker, until `completion` is sent,
the client goes or does not read for STALL_S, its token is revoked or expires, or the server closes;
then it reconnects with the id that it saw last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from contree.app.reads import OperationRow
from contree.domain.errors import ContreeError, UnauthenticatedError
from contree.domain.token import Permission
from contree.http.execution.event_frames import Frame, completion_frame, frame_of
from contree.http.execution.feed import Feeds
from contree.http.execution.journal_reader import JournalReader
from contree.http.execution.operations import content_gone, operation_in_path
from contree.http.query import flag_of, whole_number
from contree.http.token_watch import TOKENS, WITHDRAWN
from contree.http.wiring import CALLER, CLOSING, REQUEST_ID, SERVICES

FEEDS: web.AppKey[Feeds] = web.AppKey("feeds", Feeds)

NUMBER_MAX = 2**53

NOTHING_SEEN = -1
"""What a client names that has seen no event: the first one is numbered 0."""

WRITE_BYTES_MAX = 64 * 1024
"""Written at once; with the socket's own buffers, all that a follower who does not read holds."""

WAITLESS_BYTES = 32 * 1024
"""Less than this in asyncio's own buffer, and no write waits (it does from 64 KiB on)."""

STALL_S = 30.0
"""How long a follower may leave a write waiting; then it is told so and its connection closed."""

ABORT_S = 30.0
"""How long the system may go on offering it the rest."""

KEEPALIVE_S = 10.0
"""After so long a silence, and up to TICK_S more."""

KEEPALIVE = b": keepalive\n\n"
BROKEN_OFF = (
    b": stream ended with error, retry since last event id\n\nevent: sse_error\ndata: %s\n\n"
)
UNREAD = b"you did not read for too long"
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
    if (gone := content_gone(request[CALLER], row)) is not None:
        raise gone
    follow = wanted.follow and not row.status.is_terminal
    pieces = _followed(request, row, wanted) if follow else _present(request, row, wanted)
    response = web.StreamResponse(headers=HEADERS)
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    await _write(request, response, piece)
        except UnauthenticatedError:
            await response.write(BROKEN_OFF % WITHDRAWN)
        except ContreeError as error:
            _log.warning("request_id=%s events broke off: %s", request[REQUEST_ID], error)
            await response.write(BROKEN_OFF % b"the journal could not be read")
        except TimeoutError:
            await drop(request, response)
            return response
        await response.write_eof()
    except ConnectionError:
        request.protocol.force_close()
    return response


async def _write(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Write, waiting STALL_S at most for a client that does not read. Raises TimeoutError."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + len(piece) < WAITLESS_BYTES:
        await response.write(piece)  # it cannot have to wait: a timer would cost more than it
        return
    async with asyncio.timeout(STALL_S):
        await response.write(piece)


async def drop(
    request: web.Request, response: web.StreamResponse, *, last: bytes = BROKEN_OFF % UNREAD
) -> None:
    """Let a follower go who does not read: what it sees last, if it ever reads again, is why."""
    _log.warning("request_id=%s follower dropped, it does not read", request[REQUEST_ID])
    transport = request.transport
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await response.write(last)
    request.protocol.force_close()
    if transport is not None:
        asyncio.get_running_loop().call_later(ABORT_S, transport.abort)


def _require_spawn(request: web.Request) -> None:
    """A follower needs one of the two spawn permissions on top of `list`."""
    caller = request[CALLER]
    if Permission.SPAWN_DISPOSABLE.value not in caller.token.permissions:
        caller.require(Permission.SPAWN)


def _wanted(request: web.Request) -> _Wanted:
    """Read the query; the `Last-Event-Id` header wins over `since`. Raises InvalidFieldError."""
    since = _number("since", request.query.get("since"), low=NOTHING_SEEN)
    spid = _number("spid", request.query.get("spid"), low=0)
    last_seen = _number("Last-Event-Id", request.headers.get("Last-Event-Id"), low=NOTHING_SEEN)
    after = since if last_seen is None else last_seen
    return _Wanted(
        follow=flag_of(request, "follow"), after=NOTHING_SEEN if after is None else after, spid=spid
    )


def _number(field: str, text: str | None, *, low: int) -> int | None:
    return None if text is None else whole_number(text, field=field, low=low, high=NUMBER_MAX)


async def _present(
    request: web.Request, row: OperationRow, wanted: _Wanted
) -> AsyncGenerator[bytes, None]:
    """Yield what there is now, with the end of an operation that has ended (`row` is older)."""
    services = request.app[SERVICES]
    operation_id, after = row.operation_id, wanted.after
    reader, more = JournalReader(services.journal, operation_id), True
    while more:
        entries, more = await reader.page(after=after)
        for piece in _pieces([frame_of(entry) for entry in entries], wanted.spid):
            yield piece
        after = entries[-1].number if entries else after
    if row.status.is_terminal and wanted.spid is None:
        number = await services.journal.next_number(operation_id)
        if number > after:
            yield completion_frame(row, number=number, now=services.clock.now()).data


async def _followed(
    request: web.Request, row: OperationRow, wanted: _Wanted
) -> AsyncGenerator[bytes, None]:
    """Yield frames (and keepalives) until the feed ends or the client is gone.

    Raises UnauthenticatedError once its token is not good any more.
    """
    closing = request.app[CLOSING]
    reader = JournalReader(request.app[SERVICES].journal, row.operation_id)
    after, time_s = wanted.after, asyncio.get_running_loop().time
    spoke_at_s = time_s()
    async with (
        request.app[TOKENS].watched(request[CALLER]) as withdrawn,
        request.app[FEEDS].follow(row, after=after) as feed,
    ):
        while not closing.is_set() and not _is_gone(request):
            if withdrawn.is_set():
                raise UnauthenticatedError(WITHDRAWN.decode())
            frames: Sequence[Frame] = ()
            if after < feed.floor:
                floor = feed.floor
                entries, _ = await reader.page(after=after)
                frames = [frame_of(entry) for entry in entries]
                after = frames[-1].number if frames else floor
            elif frames := feed.frames_after(after):
                after = frames[-1].number
            elif feed.failure is not None:
                raise feed.failure
            elif feed.ended:
                return
            elif time_s() - spoke_at_s < KEEPALIVE_S:
                await feed.changed()
                continue
            for piece in _pieces(frames, wanted.spid):
                yield piece
                spoke_at_s = time_s()
            if time_s() - spoke_at_s >= KEEPALIVE_S:
                # Frames of other processes than the one that is wanted do not keep it alive.
                yield KEEPALIVE
                spoke_at_s = time_s()


def _pieces(frames: Sequence[Frame], spid: int | None) -> Iterator[bytes]:
    """Join what is wanted of `frames` into pieces of about WRITE_BYTES_MAX."""
    waiting: list[bytes] = []
    size_bytes = 0
    for frame in frames:
        if spid is not None and frame.spid != spid:
            continue
        waiting.append(frame.data)
        size_bytes += len(frame.data)
        if size_bytes >= WRITE_BYTES_MAX:
            yield b"".join(waiting)
            waiting, size_bytes = [], 0
    if waiting:
        yield b"".join(waiting)


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
