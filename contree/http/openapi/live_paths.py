"""Paths of what clients do with a running instance: its events and its processes."""

from __future__ import annotations

from typing import Any

from contree.http.openapi.operation import answer_, json_, json_body, operation
from contree.http.openapi.parameters import FLAG, OPERATION_UUID, SIGNAL, SPID, in_query
from contree.http.openapi.replay import replay_path
from contree.http.openapi.schemas import STRING, ref

NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**53}
SEEN = NUMBER | {"minimum": -1, "description": "The id of the last event seen; -1: none yet."}


def live_paths() -> dict[str, Any]:
    """Return what stands below one operation."""
    below = "/v1/operations/{operation_uuid}"
    return {
        f"{below}/events": {"get": _events()},
        f"{below}/replay": replay_path(),
        f"{below}/subprocesses": {"post": _spawn()},
        f"{below}/subprocesses/{{spid}}": {"get": _result(), "delete": _signal()},
        f"{below}/subprocesses/{{spid}}/stdin": {"post": _stdin()},
    }


def _events() -> dict[str, Any]:
    return operation(
        "Follow what an operation does, as Server-Sent Events",
        "operations",
        answer_(200, {"text/event-stream": {"schema": ref("EventFrame")}}),
        parameters=(
            OPERATION_UUID,
            in_query("follow", FLAG, "Stay until the operation has ended."),
            in_query("since", SEEN, "Only events with a higher id."),
            in_query("spid", NUMBER, "Only events of this process."),
            {"name": "Last-Event-Id", "in": "header", "schema": SEEN},
        ),
        errors=(400, 403, 404, 410),
    )


def _spawn() -> dict[str, Any]:
    return operation(
        "Start another process in the guest of a running instance",
        "subprocesses",
        json_(ref("Subprocess"), status=201, headers={"Location": {"schema": STRING}}),
        parameters=(OPERATION_UUID,),
        body=json_body("SubprocessRequest"),
        errors=(400, 403, 404, 409, 410, 425, 504),
    )


def _result() -> dict[str, Any]:
    return operation(
        "Look at what a process has written and how it ended, also after the operation's end",
        "subprocesses",
        json_(ref("InstanceResult")),
        parameters=(OPERATION_UUID, SPID),
        errors=(400, 403, 404, 410, 425),
    )


def _signal() -> dict[str, Any]:
    return operation(
        "Signal a process group; SIGKILL when no signal is named",
        "subprocesses",
        answer_(204),
        parameters=(OPERATION_UUID, SPID, in_query("signal", SIGNAL, "`15`, `TERM`, `SIGTERM`.")),
        errors=(400, 403, 404, 409, 410, 425, 504),
    )


def _stdin() -> dict[str, Any]:
    return operation(
        "Append to the standard input of a process that was started with `stdin.close=false`",
        "subprocesses",
        answer_(204),
        parameters=(OPERATION_UUID, SPID),
        body=json_body("Stdin"),
        errors=(400, 403, 404, 409, 410, 425, 504),
    )
