"""The audit index: its tables, and what each recorded event puts into them. Pure.

    entries      one row an event: position, and what events are filtered by
    mentions     which events name an image, in whatever role
    images       when an image came to be, and out of which
    operations   when an operation was requested and when it ended: what lived at any position
    tag_moves    every move of every tag; `image_id` is null for a removal

Rows are only ever added, but for the end of an operation. Unlike the read models of
`contree.projections.ALL` these follow the log: an append does not pay for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from contree.app.audit.audit_index import Mark
from contree.app.recorded_log import RecordedEvent
from contree.domain.operation import Kind, Status

VERSION = 1
"""To be raised when the fold gives other rows: the index is then emptied and folded again."""

SCHEMA = "audit"
DDL = """
CREATE TABLE entries (
    position     bigint      PRIMARY KEY,
    log_time     timestamptz NOT NULL,
    latest_at    timestamptz NOT NULL,
    project_id   uuid        NOT NULL,
    actor        text        NOT NULL,
    type         text        NOT NULL,
    operation_id uuid,
    tag          text        COLLATE "C"
);
CREATE INDEX entries_time_idx ON entries (log_time, position);
CREATE INDEX entries_project_idx ON entries (project_id, position);
CREATE INDEX entries_actor_idx ON entries (project_id, actor, position);
CREATE INDEX entries_type_idx ON entries (project_id, type, position);
CREATE INDEX entries_operation_idx ON entries (operation_id, position)
    WHERE operation_id IS NOT NULL;
CREATE INDEX entries_tag_idx ON entries (project_id, tag, position) WHERE tag IS NOT NULL;

CREATE TABLE mentions (
    image_id uuid   NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (image_id, position)
);

CREATE TABLE images (
    image_id        uuid        PRIMARY KEY,
    project_id      uuid        NOT NULL,
    parent_image_id uuid,
    operation_id    uuid,
    created_at      timestamptz NOT NULL,
    position        bigint      NOT NULL
);
CREATE INDEX images_newest_idx ON images (project_id, created_at DESC, image_id DESC);
CREATE INDEX images_parent_idx ON images (parent_image_id) WHERE parent_image_id IS NOT NULL;

CREATE TABLE operations (
    operation_id uuid        PRIMARY KEY,
    project_id   uuid        NOT NULL,
    kind         text        NOT NULL,
    created_at   timestamptz NOT NULL,
    requested    bigint      NOT NULL,
    ended        bigint,
    status       text
);
CREATE INDEX operations_newest_idx
    ON operations (project_id, created_at DESC, operation_id DESC);
CREATE INDEX operations_ended_idx
    ON operations (project_id, status, created_at DESC, operation_id DESC)
    WHERE ended IS NOT NULL;
CREATE INDEX operations_alive_idx ON operations USING gist (int8range(requested, ended));

CREATE TABLE tag_moves (
    project_id  uuid        NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    position    bigint      NOT NULL,
    image_id    uuid,
    assigned_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, name, position)
);
CREATE INDEX tag_moves_image_idx ON tag_moves (image_id, position) WHERE image_id IS NOT NULL;
"""

REQUESTS = {
    "contree.operation.import_requested": Kind.IMPORT.value,
    "contree.operation.instance_requested": Kind.INSTANCE.value,
}
ENDS = {
    "contree.operation.succeeded": Status.SUCCESS.value,
    "contree.operation.failed": Status.FAILED.value,
    "contree.operation.cancelled": Status.CANCELLED.value,
}

Row = tuple[Any, ...]


@dataclass(slots=True)
class AuditRows:
    """What a batch of events puts into the index: rows in the order of the tables' columns.

    ends   (operation_id, ended, status) of operations that an earlier batch has put in
    """

    entries: list[Row] = field(default_factory=list)
    mentions: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    operations: list[Row] = field(default_factory=list)
    tag_moves: list[Row] = field(default_factory=list)
    ends: list[Row] = field(default_factory=list)


def fold_audit(
    mark: Mark, events: Iterable[tuple[RecordedEvent, Mapping[str, Any]]]
) -> tuple[Mark, AuditRows]:
    """Fold the events that follow `mark`, each with its decoded fields. Same in, same out."""
    rows = AuditRows()
    position, log_time, latest_at = mark.position, mark.log_time, mark.latest_at
    requested: dict[UUID, Row] = {}
    for event, facts in events:
        position, type_, project_id = event.position, event.topic, facts["project_id"]
        log_time = max(log_time, event.recorded_at)
        latest_at = max(latest_at, facts["timestamp"])
        about = type_.split(".")[1]
        operation_id = event.aggregate_id if about == "operation" else facts.get("operation_id")
        rows.entries.append(
            (
                *(position, log_time, latest_at, project_id, facts["actor"], type_),
                *(operation_id, _tag_in(about, facts)),
            )
        )
        rows.mentions += [(image_id, position) for image_id in _images_in(about, event, facts)]
        if about == "image":
            parent_id, made_at = facts.get("parent_image_id"), facts["timestamp"]
            rows.images.append(
                (event.aggregate_id, project_id, parent_id, operation_id, made_at, position)
            )
        elif about == "tag":
            rows.tag_moves.append(
                (project_id, facts["name"], position, facts.get("image_id"), facts["timestamp"])
            )
        elif type_ in REQUESTS:
            requested[event.aggregate_id] = (
                *(event.aggregate_id, project_id, REQUESTS[type_], facts["timestamp"], position),
                *(None, None),
            )
        elif type_ in ENDS:
            if (row := requested.get(event.aggregate_id)) is not None:
                requested[event.aggregate_id] = (*row[:-2], position, ENDS[type_])
            else:
                rows.ends.append((event.aggregate_id, position, ENDS[type_]))
    rows.operations += requested.values()
    return Mark(position=position, log_time=log_time, latest_at=latest_at), rows


def _tag_in(about: str, facts: Mapping[str, Any]) -> str | None:
    """The tag that an event names."""
    tag: str | None = facts.get("name") if about == "tag" else None
    if about == "operation":
        tag = facts.get("result_tag") or facts.get("tag")
    return tag


def _images_in(about: str, event: RecordedEvent, facts: Mapping[str, Any]) -> set[UUID]:
    """The images that an event names."""
    named: set[UUID | None] = set()
    match about:
        case "image":
            named = {event.aggregate_id, facts.get("parent_image_id")}
        case "tag":
            named = {facts.get("image_id"), facts.get("previous_image_id")}
        case "operation":
            named = {facts.get("result_image_id")}
            if "image_id" in (spec := facts.get("spec") or {}):
                named.add(UUID(spec["image_id"]))
        case _:
            pass
    return {image_id for image_id in named if image_id is not None}
