"""The log of an image: its path, and what it gives."""

from __future__ import annotations

from typing import Any

from contree.domain.operation import Kind
from contree.http.openapi.audit import AS_OF
from contree.http.openapi.diff import CURSOR, PATHS
from contree.http.openapi.operation import Operation, json_, operation
from contree.http.openapi.parameters import FLAG, LIMIT, in_path, in_query
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    MOMENT,
    STRING,
    UUID,
    Schema,
    answer,
    array_of,
    nullable,
    ref,
)


def log_paths() -> dict[str, Any]:
    return {"/v1/images/{image}/log": {"get": _log()}}


def _log() -> Operation:
    return operation(
        "Show which runs made an image, and what each changed",
        "images",
        json_(ref("ImageLog")),
        parameters=(
            in_path("image", UUID) | {"description": "A UUID, or `tag:NAME`."},
            PATHS,
            in_query("follow", FLAG, "Renamed files under their older names too."),
            LIMIT,
            in_query("cursor", CURSOR, "The `next` of the page before."),
            AS_OF,
        ),
        errors=(400, 403, 404, 410),
    )


def log_schemas() -> dict[str, Schema]:
    """What a log gives."""
    return {
        "ImageLog": answer(
            {
                "entries": array_of(ref("LogEntry")),
                "next": nullable(STRING)
                | {"description": "`cursor` of the next page, which may be short or empty"},
            }
        ),
        "LogEntry": answer(
            {
                "image": UUID,
                "parents": array_of(UUID),
                "operation": UUID,
                "kind": nullable({"enum": [kind.value for kind in Kind]}),
                "at": MOMENT,
                "actor": nullable(STRING) | {"description": "token or `operator`"},
                "command": nullable(STRING),
                "args": nullable(array_of(STRING)),
                "shell": nullable(BOOLEAN),
                "registry_url": nullable(STRING),
                "exit_code": nullable(INTEGER),
                "tags": array_of(STRING),
                "changed": nullable(ref("DiffSummary")) | {"description": "null for an import"},
                "changes": array_of(ref("ImageChange")) | {"description": "of the asked paths"},
            }
        ),
    }
