"""`/instances`: start a run."""

from __future__ import annotations

from aiohttp import web

from contree.http.answers import json_answer
from contree.http.decode import decode_run
from contree.http.execution.run_value import request_value, stdin_value
from contree.http.request_body import read_body
from contree.http.wiring import CALLER, SERVICES


async def create_instance(request: web.Request) -> web.Response:
    """Accept a run and answer with it as it was understood; it never waits for capacity."""
    services = request.app[SERVICES]
    body = await read_body(request, bytes_max=services.limits.request_body_bytes_max)
    order = decode_run(body)
    operation_id, spec = await services.runs.request(request[CALLER], order)
    stdin = (
        stdin_value(b"", encoding="ascii", close=True)
        if order.stdin is None
        else stdin_value(order.stdin.data, encoding=order.stdin.encoding, close=order.stdin.close)
    )
    value = {"uuid": operation_id, **request_value(spec, stdin), "result": None}
    headers = {"Location": f"/v1/operations/{operation_id}"}
    return json_answer(request, value, status=201, headers=headers)
