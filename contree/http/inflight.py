"""What a command that still runs has written so far, read from its operation's journal."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime
from typing import Any

from contree.app.journal import Journal
from contree.app.operation_journal import MAIN_SPID
from contree.app.reads import OperationRow
from contree.domain.stream_text import cut_at_character
from contree.http.render import duration_s
from contree.http.run_value import partial_result_value, stream_value

READ_MAX = 1000


async def partial_result(journal: Journal, row: OperationRow, *, now: datetime) -> dict[str, Any]:
    """Return an InstanceResult with exit code and signal -1 and the output until now.

    Bounded: the journal holds at most the run's own cap of each stream.
    """
    output = {"stdout": bytearray(), "stderr": bytearray()}
    truncated = {"stdout": False, "stderr": False}
    pid, after = -1, -1
    while entries := await journal.read(row.operation_id, after=after, limit=READ_MAX):
        after = entries[-1].number
        for entry in (numbered.entry for numbered in entries):
            if entry.spid != MAIN_SPID:
                continue
            if entry.type == "spawn":
                pid = entry.data["pid"]
            elif entry.type in output:
                output[entry.type] += _bytes_of(entry.data["value"], entry.data["encoding"])
            elif entry.type == "truncated":
                truncated[entry.data["stream"]] = True
        if len(entries) < READ_MAX:
            break
    return partial_result_value(
        pid=pid,
        duration_us=round(duration_s(row, now=now) * 1_000_000),
        stdout=stream_value(
            cut_at_character(bytes(output["stdout"])), truncated=truncated["stdout"]
        ),
        stderr=stream_value(
            cut_at_character(bytes(output["stderr"])), truncated=truncated["stderr"]
        ),
    )


def _bytes_of(value: str, encoding: str) -> bytes:
    return b64decode(value) if encoding == "base64" else value.encode("utf-8")
