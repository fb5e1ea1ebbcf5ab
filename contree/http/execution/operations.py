"""`/operations`: list, look, cancel."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from contree.app.access import Caller
from contree.app.reads import OperationRow
from contree.domain.environment import MASKED
from contree.domain.errors import (
    ContentErasedError,
    ContentExpiredError,
    ContreeError,
    NotFoundError,
)
from contree.domain.instance import InstanceSpec
from contree.domain.operation import MAIN_SPID, Kind, Status
from contree.domain.outcome import ProcessOutcome
from contree.domain.token import Permission
from contree.http.answers import json_answer
from contree.http.as_of import seen_by
from contree.http.execution.process_result import process_result, unstarted_result
from contree.http.execution.run_value import (
    GONE,
    OutputReader,
    gone_stdin_value,
    request_value,
    result_value,
)
from contree.http.query import choice_of, flag_of, page_of, uuid_in_path
from contree.http.render import operation_result, operation_summary
from contree.http.wiring import CALLER, SERVICES

OUTPUTS: web.AppKey[OutputReader] = web.AppKey("outputs", OutputReader)

RETRY_AFTER_S = 1
"""How long a client that polls may well wait while an operation is not at its end."""


async def list_operations(request: web.Request) -> web.Response:
    """A bare array of summaries, the newest first."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    seen = await seen_by(request)
    rows = await seen.operations.list(
        caller.project_id,
        page_of(request, now=seen.now),
        status=choice_of(request, "status", Status),
        kind=choice_of(request, "kind", Kind),
    )
    await seen.record(len(rows))
    value = [operation_summary(row, now=seen.now) for row in rows]
    return json_answer(request, value, headers=seen.headers)


async def get_operation(request: web.Request) -> web.Response:
    """Everything about one operation; with `inflight`, what a command wrote so far.

    `inflight` has no effect on the past: the journal of a running command is not history.
    """
    caller = request[CALLER]
    caller.require(Permission.LIST)
    operation_id = uuid_in_path(request, "operation_uuid")
    seen = await seen_by(request)
    row = await seen.operations.get(caller.project_id, operation_id)
    await seen.record(int(row is not None))
    if row is None:
        raise NotFoundError("operation", operation_id)
    now = seen.now
    value = operation_summary(row, now=now)
    value["result"] = operation_result(row)
    if row.kind is Kind.IMPORT:
        value["metadata"] = _import_metadata(row)
    else:
        value["metadata"] = metadata = await _run_metadata(request, row)
        in_flight = row.status is Status.EXECUTING and not seen.is_past
        if in_flight and flag_of(request, "inflight"):
            journal = request.app[SERVICES].journal
            partial = await process_result(journal, row.operation_id, MAIN_SPID, now=now)
            partial = partial or unstarted_result()
            metadata["result"] = partial
            streams = {name: partial[name] for name in ("stdout", "stderr")}
            value["result"] = {"image": None, "tag": None, **streams}
    headers = seen.headers
    if not row.status.is_terminal and not seen.is_past:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    return json_answer(request, value, headers=headers)


async def cancel_operation(request: web.Request) -> web.Response:
    """Accept the wish; the operation is CANCELLED when the work has stopped."""
    operation_id = uuid_in_path(request, "operation_uuid")
    await request.app[SERVICES].cancellation.cancel(request[CALLER], operation_id)
    return web.Response(status=202)


async def operation_in_path(request: web.Request) -> OperationRow:
    """Return the operation that the path names. Raises NotFoundError, PermissionMissingError."""
    caller = request[CALLER]
    caller.require(Permission.LIST)
    operation_id = uuid_in_path(request, "operation_uuid")
    row = await request.app[SERVICES].operations.get(caller.project_id, operation_id)
    if row is None:
        raise NotFoundError("operation", operation_id)
    return row


def _import_metadata(row: OperationRow) -> dict[str, Any]:
    """The request; `credentials` is there only when some were given, the password never."""
    registry: dict[str, Any] = {"url": row.request["registry_url"]}
    if row.request["username"] is not None:
        registry["credentials"] = {"username": row.request["username"], "password": MASKED}
    return {
        "registry": registry,
        "tag": row.request["tag"],
        "timeout": row.request["timeout_s"],
    }


async def _run_metadata(request: web.Request, row: OperationRow) -> dict[str, Any]:
    """The normalised request, and `result` when the command has ended (else null)."""
    outputs = request.app[OUTPUTS]
    is_there = content_gone(request[CALLER], row) is None
    spec = InstanceSpec.from_fact(row.request)
    if is_there or spec.body is None:
        spec = await request.app[SERVICES].environment.shown(row.project_id, spec)
    if is_there:
        stdin = await outputs.stdin(row.project_id, spec.stdin)
    else:
        stdin = gone_stdin_value(spec.stdin)
    metadata = request_value(spec, stdin)
    if spec.body is not None:  # what was long in the request is gone, as outputs are
        metadata["truncated"] = True
    if row.replay_of is not None:
        metadata["replay_of"] = row.replay_of
    metadata["result"] = None
    if row.outcome is not None:
        outcome = ProcessOutcome.from_fact(row.outcome)
        metadata["result"] = result_value(
            outcome,
            stdout=await outputs.output(row.project_id, outcome.stdout) if is_there else GONE,
            stderr=await outputs.output(row.project_id, outcome.stderr) if is_there else GONE,
        )
    return metadata


def content_gone(caller: Caller, row: OperationRow) -> ContreeError | None:
    """Why what the operation wrote and was given is not there any more; None when it is."""
    if caller.token.erased_at is not None:
        return ContentErasedError(caller.token.erased_at)
    cut = caller.token.content_cut
    if cut is not None and row.finished_at is not None and row.finished_at < cut:
        return ContentExpiredError(cut)
    return None
