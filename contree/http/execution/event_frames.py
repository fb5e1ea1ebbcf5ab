"""Journal entries and the end of an operation as frames of a Server-Sent Events stream. Pure.

A frame is `id: N`, `event: TYPE`, `data: {one-line JSON}` and an empty line.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contree.app.journal import NumberedEntry
from contree.app.reads import OperationRow
from contree.http.json_text import json_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event as it goes over the wire. `spid` is None for the operation's own."""

    number: int
    spid: int | None
    type: str
    data: bytes


def frame_of(numbered: NumberedEntry) -> Frame:
    entry = numbered.entry
    value = {"ts": entry.at, "spid": entry.spid, "type": entry.type, "data": entry.data}
    return _frame(numbered.number, entry.spid, value)


def completion_frame(row: OperationRow, *, number: int, now: datetime) -> Frame:
    """The operation's end, of a terminal row. It belongs to no process, so it has no `spid`."""
    value = {
        "ts": now if row.finished_at is None else row.finished_at,
        "type": "completion",
        "data": {
            "status": row.status,
            "duration_ms": row.duration_us // 1000,
            "result_image_uuid": row.result_image_id,
            "error": row.error,
            "image_size_bytes": row.image_size_bytes,
        },
    }
    return _frame(number, None, value)


def _frame(number: int, spid: int | None, value: dict[str, Any]) -> Frame:
    type_: str = value["type"]
    data = json_bytes({"id": number, **value})
    wire = b"id: %d\nevent: %s\ndata: %s\n\n" % (number, type_.encode(), data)
    return Frame(number=number, spid=spid, type=type_, data=wire)
