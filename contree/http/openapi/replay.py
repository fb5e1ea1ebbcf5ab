"""Replays: asking for one, and how it compares with its original."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from contree.domain.outcome import ResourceUsage
from contree.domain.replay_report import Verdict
from contree.domain.text_difference import Cause
from contree.http.openapi.operation import json_, json_body, operation
from contree.http.openapi.parameters import OPERATION_UUID
from contree.http.openapi.schemas import (
    BOOLEAN,
    INTEGER,
    SHA256,
    STRING,
    UUID,
    Schema,
    answer,
    array_of,
    map_of,
    nullable,
    ref,
)


def replay_path() -> dict[str, Any]:
    """What stands at `/v1/operations/{operation_uuid}/replay`."""
    return {
        "post": operation(
            "Run a recorded command again from the recorded image and inputs",
            "operations",
            json_(ref("Replay"), status=201, headers={"Location": {"schema": STRING}}),
            parameters=(OPERATION_UUID,),
            body=json_body("ReplayRequest"),
            errors=(400, 403, 404, 409, 410),
        ),
        "get": operation(
            "What a replay that has ended has in common with its original, and where they part",
            "operations",
            json_(ref("ReplayReport")),
            parameters=(OPERATION_UUID,),
            errors=(400, 403, 404, 409),
        ),
    }


def replay_schemas() -> dict[str, Schema]:
    """What replays take and give."""
    return {
        "ReplayRequest": {
            "type": "object",
            "properties": {
                "env": nullable(
                    map_of(STRING)
                    | {"description": "values of variables that the log holds masked, all of them"}
                )
            },
        },
        "Replay": answer({"uuid": UUID, "replay_of": UUID}),
        "ReplayReport": _report(),
    }


def _report() -> Schema:
    """The comparison, part by part."""
    causes = array_of({"enum": [cause.value for cause in Cause]})
    first = nullable(
        answer({"offset": INTEGER, "line": INTEGER, "original": STRING, "replay": STRING})
    )
    end = answer(
        {
            "status": STRING,
            "error": nullable(STRING),
            "exit_code": nullable(INTEGER),
            "signal": nullable(INTEGER),
            "timed_out": BOOLEAN,
            "oom_killed": BOOLEAN,
        }
    )
    kept = nullable(answer({"sha256": SHA256, "size_bytes": INTEGER, "dropped_bytes": INTEGER}))
    stream = answer(
        {
            "equal": BOOLEAN,
            "original": kept,
            "replay": kept,
            "first_difference": first,
            "causes": causes,
        }
    )
    file = answer(
        {
            "path": STRING,
            "fields": array_of(STRING),
            "original": {"type": "object"},
            "replay": {"type": "object"},
            "first_difference": first,
            "causes": causes,
        }
    )
    filesystem = answer(
        {
            "equal": BOOLEAN,
            "not_compared": nullable(STRING | {"description": "why there is nothing to compare"}),
            "equal_entries": INTEGER,
            "differences": array_of(file),
            "truncated": BOOLEAN,
            "causes": causes,
        }
    )
    usage = answer({field.name: INTEGER for field in fields(ResourceUsage)})
    used = answer({"duration_us": INTEGER, "usage": nullable(usage)})
    return answer(
        {
            "original": UUID,
            "replay": UUID,
            "verdict": {"enum": [verdict.value for verdict in Verdict]},
            "differs": array_of(STRING),
            "causes": causes,
            "end": answer({"equal": BOOLEAN, "original": end, "replay": end}),
            "stdout": stream,
            "stderr": stream,
            "filesystem": filesystem,
            "resources": answer({"original": used, "replay": used}),
            "not_replayed": array_of(STRING),
        }
    )
