"""Operations as last known: what lists, polls and the work queue look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from contree.app.projection import Change
from contree.domain import operation as op
from contree.domain.aggregate import Event
from contree.domain.operation import Kind, Status

REQUEST = (
    "INSERT INTO operations "
    "(operation_id, project_id, kind, status, created_at, image_id, request, replay_of) "
    "VALUES ($1, $2, $3, 'PENDING', $4, $5, $6, $7)"
)
ASSIGN = (
    "UPDATE operations SET status = 'ASSIGNED', worker = $2, started_at = $3 "
    "WHERE operation_id = $1"
)
START = "UPDATE operations SET status = 'EXECUTING' WHERE operation_id = $1"
REQUEUE = (
    "UPDATE operations SET status = 'PENDING', worker = NULL, started_at = NULL "
    "WHERE operation_id = $1"
)
WISH = "UPDATE operations SET cancellation_requested = true WHERE operation_id = $1"
END = (
    "UPDATE operations SET status = $2, finished_at = $3, duration_us = $4, error = $5, "
    "outcome = $6, result_image_id = $7, result_tag = $8, image_size_bytes = $9 "
    "WHERE operation_id = $1"
)
NUL_SHOWN = "\ufffd"
"""What stands for NUL in the text of an error: PostgreSQL's text has none."""

DDL = """
CREATE TABLE IF NOT EXISTS operations (
    operation_id           uuid        PRIMARY KEY,
    project_id             uuid        NOT NULL,
    kind                   text        NOT NULL,
    status                 text        NOT NULL,
    error                  text,
    created_at             timestamptz NOT NULL,
    started_at             timestamptz,
    finished_at            timestamptz,
    duration_us            bigint      NOT NULL DEFAULT 0,
    worker                 text,
    cancellation_requested boolean     NOT NULL DEFAULT false,
    image_id               uuid,
    result_image_id        uuid,
    result_tag             text,
    image_size_bytes       bigint,
    request                json        NOT NULL,
    outcome                json,
    replay_of              uuid
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS operations_newest_idx
    ON operations (project_id, created_at DESC, operation_id DESC);
CREATE INDEX IF NOT EXISTS operations_status_idx
    ON operations (project_id, status, created_at DESC, operation_id DESC);
CREATE INDEX IF NOT EXISTS operations_pending_idx
    ON operations (kind, project_id, created_at, operation_id) WHERE status = 'PENDING';
CREATE INDEX IF NOT EXISTS operations_running_idx
    ON operations (kind, project_id) WHERE status IN ('ASSIGNED', 'EXECUTING');
"""


class OperationsProjection:
    """The table `operations`. `request` and `outcome` are json: handed out as recorded."""

    tables: tuple[str, ...] = ("operations",)
    ddl = DDL

    def apply(self, event: Event) -> Sequence[Change]:
        change = _change(event)
        if change is None:
            return ()
        statement, arguments = change
        id_ = event.originator_id
        return (Change(statement=statement, arguments=(id_, *arguments), row=("operations", id_)),)


def _change(event: Event) -> tuple[str, tuple[object, ...]] | None:
    """The statement for `event` and its values after the operation's id."""
    match event:
        case op.InstanceRequested():
            image_id = UUID(event.spec["image_id"])
            return REQUEST, (
                *_requested(event, Kind.INSTANCE, image_id, event.spec),
                event.replay_of,
            )
        case op.ImportRequested():
            request = {
                "registry_url": event.registry_url,
                "username": event.username,
                "tag": event.tag,
                "timeout_s": event.timeout_s,
            }
            return REQUEST, (*_requested(event, Kind.IMPORT, None, request), None)
        case op.OperationAssigned():
            return ASSIGN, (event.worker, event.timestamp)
        case op.OperationStarted():
            return START, ()
        case op.OperationRequeued():
            return REQUEUE, ()
        case op.CancellationRequested():
            return WISH, ()
        case op.OperationSucceeded() | op.OperationFailed() | op.OperationCancelled():
            return END, _ended(event)
        case _:
            return None


def _requested(
    event: Event, kind: Kind, image_id: UUID | None, request: Mapping[str, Any]
) -> tuple[object, ...]:
    return event.project_id, kind.value, event.timestamp, image_id, _json(request)


def _ended(
    event: op.OperationSucceeded | op.OperationFailed | op.OperationCancelled,
) -> tuple[object, ...]:
    status, error, outcome = Status.CANCELLED, None, None
    result: tuple[object, ...] = (None, None, None)
    if isinstance(event, op.OperationSucceeded):
        status, outcome = Status.SUCCESS, event.outcome
        result = (event.result_image_id, event.result_tag, event.image_size_bytes)
    else:
        error = event.error.replace("\0", NUL_SHOWN)
        if isinstance(event, op.OperationFailed):
            status, outcome = Status.FAILED, event.outcome
    shown = None if outcome is None else _json(outcome)
    return (status.value, event.timestamp, event.duration_us, error, shown, *result)


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()
