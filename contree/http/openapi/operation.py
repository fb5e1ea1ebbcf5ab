"""What an operation of the document is made of: answers, errors, bodies."""

from __future__ import annotations

from typing import Any

from contree.http.openapi.parameters import PROJECT
from contree.http.openapi.schemas import STRING, Schema, ref

Operation = dict[str, Any]

ERROR_TEXTS = {
    400: "A field is wrong or a limit is passed; `field` names it",
    401: "No token, or one that is not known, has expired, was revoked, or is another project's",
    403: "The token lacks the permission",
    404: "It does not exist in this project",
    409: "Its state does not allow this",
    410: "Its content is not kept any more, or (standard input) the instance has ended",
    415: "The body has a `Content-Encoding`; bodies are sent as they are",
    416: "The range lies outside the file",
    422: "The path exists but is of the wrong type",
    425: "Not possible yet, and nothing was done; try again",
    503: "A part the server needs is not there at the moment; try again",
    504: "The guest did not confirm in time; it may have been done",
}
REQUEST_ID = {"X-Request-Id": {"schema": STRING, "description": "ties log and events together"}}


def json_(schema: Schema, *, status: int = 200, headers: Any = None) -> dict[str, Any]:
    return answer_(status, {"application/json": {"schema": schema}}, headers=headers)


def answer_(status: int, content: Any = None, *, headers: Any = None) -> dict[str, Any]:
    described: dict[str, Any] = {"description": "Done", "headers": REQUEST_ID | (headers or {})}
    if content is not None:
        described["content"] = content
    return {str(status): described}


def operation(
    summary: str,
    tag: str,
    answers: dict[str, Any],
    *,
    parameters: tuple[Any, ...] = (),
    body: Any = None,
    errors: tuple[int, ...] = (),
) -> Operation:
    """An operation behind the token; 401 and 503 can always happen."""
    described: Operation = {
        "summary": summary,
        "tags": [tag],
        "parameters": [*parameters, PROJECT],
        "responses": answers | _errors({*errors, 401, 503} | ({415} if body else set())),
    }
    if body is not None:
        # No body at all is an empty file, which is a file like any other.
        required = "application/json" in body
        described["requestBody"] = {"required": required, "content": body}
    return described


def _errors(statuses: set[int]) -> dict[str, Any]:
    content = {"application/json": {"schema": ref("Error")}}
    return {
        str(status): {
            "description": ERROR_TEXTS[status],
            "headers": REQUEST_ID,
            "content": content,
        }
        for status in sorted(statuses)
    }


def open_operation(summary: str, schema: Schema, *, errors: tuple[int, ...]) -> Operation:
    """An operation that needs no token."""
    answers = json_(schema) | _errors(set(errors))
    return {"summary": summary, "tags": ["health"], "security": [], "responses": answers}


def head_of(get: Operation) -> Operation:
    """The same without a body."""
    return get | {
        "responses": {
            status: {name: part for name, part in answer.items() if name != "content"}
            for status, answer in get["responses"].items()
        }
    }


def json_body(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": ref(name)}}
