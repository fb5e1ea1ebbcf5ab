"""Blame: its path, and what it gives."""

from __future__ import annotations

from typing import Any

from contree.http.openapi.audit import AS_OF
from contree.http.openapi.operation import json_, operation
from contree.http.openapi.parameters import GUEST_PATH, in_path
from contree.http.openapi.schemas import (
    INTEGER,
    MOMENT,
    STRING,
    UUID,
    Schema,
    answer,
    array_of,
    ref,
)


def blame_paths() -> dict[str, Any]:
    blame = operation(
        "Show which run wrote each line of a file, or last changed each entry of a directory",
        "images",
        json_(ref("Blame")),
        parameters=(
            in_path("image", UUID) | {"description": "A UUID, or `tag:NAME`."},
            GUEST_PATH,
            AS_OF,
        ),
        errors=(400, 403, 404, 410, 422),
    )
    return {"/v1/images/{image}/blame": {"get": blame}}


def blame_schemas() -> dict[str, Schema]:
    """What blame gives."""
    path = {"path": STRING, "path_base64": STRING | {"description": "when it is not UTF-8"}}
    made: dict[str, Schema] = {"image": UUID, "operation": UUID, "at": MOMENT}
    line = answer(
        {
            "line": INTEGER | {"minimum": 1, "description": "the first of them"},
            "count": INTEGER | {"minimum": 1, "description": "lines of this run that follow"},
            **made,
            "text": STRING | {"description": "without the last newline"},
        }
    )
    return {
        "Blame": answer(
            {
                **path,
                "lines": array_of(line) | {"description": "of a text file"},
                "children": array_of(answer(path | made, optional=("path_base64",)))
                | {"description": "of a directory"},
            },
            optional=("path_base64", "lines", "children"),
        )
    }
