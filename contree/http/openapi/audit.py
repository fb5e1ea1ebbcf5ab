"""Paths of the recorded history: events, lineage, and the parameter that asks for the past."""

from __future__ import annotations

from typing import Any

from contree.app.audit.audit_reads import POSITION_MAX
from contree.domain.operation import Kind
from contree.http.audit.history import DEPTH_DEFAULT, DEPTH_MAX, IMAGES_DEFAULT, IMAGES_MAX
from contree.http.audit.history_query import ACTOR_CHARS_MAX, NDJSON, TYPES_MAX
from contree.http.openapi.operation import answer_, json_, operation
from contree.http.openapi.parameters import (
    FLAG,
    IMAGE_UUID,
    LIMIT,
    TIME,
    TIME_FORMS,
    in_query,
)
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    MOMENT,
    NO_NUL,
    NUMBER,
    SHA256,
    STRING,
    TAG_PATTERN,
    UUID,
    Schema,
    answer,
    array_of,
    nullable,
    ref,
)

POSITION = INTEGER | {"minimum": 0, "maximum": POSITION_MAX}
POSITION_TEXT = STRING | {"pattern": "^[0-9]{1,18}$"}
AS_OF = in_query(
    "as_of",
    STRING | {"pattern": f"{TIME['pattern'][:-2]}|@[0-9]{{1,18}})$"},
    "The answer that was given then: at a position of the log (`@123`) or a time that is not in "
    f"the future. Takes the permission `audit` too. {TIME_FORMS}",
)


def audit_paths() -> dict[str, Any]:
    return {
        "/v1/audit/events": {"get": _events()},
        "/v1/images/{image_uuid}/lineage": {"get": _lineage()},
    }


def _events() -> dict[str, Any]:
    content = {
        "application/json": {"schema": ref("AuditPage")},
        "text/event-stream": {"schema": STRING},
        NDJSON: {"schema": STRING},
    }
    types = array_of(STRING | {"minLength": 1}) | {"maxItems": TYPES_MAX}
    return operation(
        "Look through the recorded history of the project, or follow it",
        "audit",
        answer_(200, content),
        parameters=(
            in_query("operation", UUID),
            in_query("image", UUID, "Events that name it, in whatever role."),
            in_query("tag", STRING | {"pattern": TAG_PATTERN, "maxLength": 256}),
            in_query("actor", STRING | {"pattern": NO_NUL, "maxLength": ACTOR_CHARS_MAX}),
            in_query("type", types, "Any of these; with a dot at its end, what begins so."),
            in_query("since", TIME, f"Recorded then or later. {TIME_FORMS}"),
            in_query("until", TIME, f"Recorded then or earlier. {TIME_FORMS}"),
            in_query("after", POSITION, "Beyond this position."),
            in_query("until_position", POSITION, "Up to and including this position."),
            in_query("cursor", POSITION, "The `next` of the page before."),
            LIMIT,
            in_query("order", {"enum": ["asc", "desc"], "default": "asc"}),
            in_query("follow", FLAG, "Send what is there and what comes, for ever."),
            in_query("format", {"enum": ["sse", "ndjson"]}, "Of a feed; else `Accept` says."),
            {"name": "Last-Event-ID", "in": "header", "schema": POSITION},
        ),
        errors=(400, 403),
    )


def _lineage() -> dict[str, Any]:
    depth = INTEGER | {"minimum": 1, "maximum": DEPTH_MAX, "default": DEPTH_DEFAULT}
    limit = INTEGER | {"minimum": 1, "maximum": IMAGES_MAX, "default": IMAGES_DEFAULT}
    return operation(
        "Show where an image comes from and what came out of it",
        "audit",
        json_(ref("Lineage")),
        parameters=(
            IMAGE_UUID,
            in_query("depth", depth, "Generations, up and down."),
            in_query("limit", limit, "Images beside the one asked about."),
        ),
        errors=(400, 403, 404),
    )


def audit_schemas() -> dict[str, Schema]:
    """What questions about the history are answered with."""
    return {
        "AuditPage": answer(
            {
                "events": array_of(ref("CloudEvent")),
                "next": nullable(POSITION_TEXT)
                | {"description": "`cursor` of the next page, which may be short or empty"},
                "head": POSITION_TEXT | {"description": "where the log ended"},
            }
        ),
        "CloudEvent": answer(
            {
                "specversion": {"const": "1.0"},
                "id": POSITION_TEXT | {"description": "position in the log"},
                "source": STRING,
                "type": STRING,
                "subject": STRING,
                "time": MOMENT | {"description": "when it was decided"},
                "datacontenttype": {"const": "application/json"},
                "actor": STRING | {"description": "token, `worker:<name>` or `operator`"},
                "projectid": UUID,
                "requestid": STRING,
                "aggregateversion": INTEGER,
                "recordedtime": MOMENT | {"description": "when the database took it"},
                "hash": SHA256 | {"description": "of the log's row, in the chain"},
                "data": {"type": "object"},
            }
        ),
        "Lineage": answer(
            {"image": UUID, "images": array_of(ref("RelatedImage")), "truncated": BOOLEAN}
        ),
        "RelatedImage": answer(
            {
                "uuid": UUID,
                "parent_uuid": nullable(UUID),
                "depth": INTEGER | {"description": "generations; negative for ancestors"},
                "created_at": MOMENT,
                "tags": array_of(STRING),
                "operation": nullable(
                    answer(
                        {
                            "uuid": UUID,
                            "kind": {"enum": [kind.value for kind in Kind]},
                            "command": nullable(STRING),
                            "args": nullable(array_of(STRING)),
                            "registry_url": nullable(STRING),
                            "exit_code": nullable(INTEGER),
                            "created_at": MOMENT,
                            "started_at": nullable(MOMENT),
                            "finished_at": nullable(MOMENT),
                            "duration": NUMBER | {"description": "seconds"},
                        }
                    )
                ),
            }
        ),
    }
