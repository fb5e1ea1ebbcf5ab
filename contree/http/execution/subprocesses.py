"""`/operations/{uuid}/subprocesses`: start, look at, signal and feed processes of a running guest.

Statuses that a client may repeat: 425 (nothing was done yet). 504 says that nobody knows.
"""

from __future__ import annotations

import signal

from aiohttp import web

from contree.domain.errors import InvalidFieldError, NotFoundError, TooEarlyError
from contree.domain.operation import MAIN_SPID, Kind, Status
from contree.http.answers import json_answer
from contree.http.decode import decode_stdin, decode_subprocess
from contree.http.execution.operations import content_gone, operation_in_path
from contree.http.execution.process_result import process_result
from contree.http.query import SPID_MAX, uuid_in_path, whole_number
from contree.http.request_body import read_body
from contree.http.wiring import CALLER, SERVICES

SIGNAL_MAX = 64
"""SIGRTMAX of Linux."""


async def spawn(request: web.Request) -> web.Response:
    """Start a process in the guest of a running instance."""
    services = request.app[SERVICES]
    operation_id = uuid_in_path(request, "operation_uuid")
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    order = decode_subprocess(body)
    spid = await services.steering.spawn(request[CALLER], operation_id, order)
    headers = {"Location": f"/v1/operations/{operation_id}/subprocesses/{spid}"}
    return json_answer(request, {"spid": spid}, status=201, headers=headers)


async def get_result(request: web.Request) -> web.Response:
    """What a process has written and how it ended, also after the operation's end."""
    spid = _spid(request)
    row = await operation_in_path(request)
    if (gone := content_gone(request[CALLER], row)) is not None:
        raise gone
    services = request.app[SERVICES]
    found = None
    if row.kind is Kind.INSTANCE and row.status is not Status.CANCELLED:
        found = await process_result(
            services.journal, row.operation_id, spid, now=services.clock.now()
        )
    if found is not None:
        return json_answer(request, found)
    waits = row.status in {Status.PENDING, Status.ASSIGNED} or (
        row.status is Status.EXECUTING and spid == MAIN_SPID
    )
    if row.kind is Kind.INSTANCE and waits:
        raise TooEarlyError(f"operation {row.operation_id}: its command has not been started yet")
    raise NotFoundError("process", spid)


async def send_signal(request: web.Request) -> web.Response:
    """Signal a process group; SIGKILL when the query names no signal."""
    operation_id, spid = uuid_in_path(request, "operation_uuid"), _spid(request)
    number = signal_number(request.query.get("signal", "KILL"))
    await request.app[SERVICES].steering.signal(request[CALLER], operation_id, spid, number)
    return web.Response(status=204)


async def write_stdin(request: web.Request) -> web.Response:
    """Append to a process's standard input; answered when the bytes are accepted."""
    services = request.app[SERVICES]
    operation_id, spid = uuid_in_path(request, "operation_uuid"), _spid(request)
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    data, close = decode_stdin(body)
    await services.steering.write_stdin(request[CALLER], operation_id, spid, data, close=close)
    return web.Response(status=204)


def signal_number(text: str) -> int:
    """Read `15`, `TERM` or `SIGTERM` (Linux numbers). Raises InvalidFieldError."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(SIGNAL_MAX)):
        if 1 <= int(text) <= SIGNAL_MAX:
            return int(text)
    else:
        name = text.upper()
        try:
            return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            pass
    raise InvalidFieldError(
        "signal", f"'{text[:40]}' is no signal, use a number from 1 to 64 or a name such as TERM"
    )


def _spid(request: web.Request) -> int:
    return whole_number(request.match_info["spid"], field="spid", low=1, high=SPID_MAX)
