"""`/operations/{uuid}/replay`: run a recorded command again, and compare."""

from __future__ import annotations

from aiohttp import web

from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.decode import decode_replay
from contree.http.execution.replay_value import report_value
from contree.http.query import uuid_in_path
from contree.http.request_body import read_body
from contree.http.wiring import CALLER, SERVICES


async def request_replay(request: web.Request) -> web.Response:
    """Accept a replay of the operation; it is an operation of its own."""
    services = request.app[SERVICES]
    original_id = uuid_in_path(request, "operation_uuid")
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    secrets = decode_replay(body) if body else {}
    replay_id = await services.replays.request(request[CALLER], original_id, secrets=secrets)
    return json_answer(
        request,
        {"uuid": replay_id, "replay_of": original_id},
        status=201,
        headers={"Location": f"/v1/operations/{replay_id}"},
    )


async def get_comparison(request: web.Request) -> web.Response:
    """How the replay that the path names compares with its original."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    replay_id = uuid_in_path(request, "operation_uuid")
    report = await request.app[SERVICES].comparison.compare(caller.project_id, replay_id)
    return json_answer(request, report_value(report))
