"""What one process has written and how it ended, read from its operation's journal.

Works while the process runs (exit code and signal are -1 then) and for good after it. Bounded: the
journal holds at most the process's own cap of each stream.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from contree.app.journal import Journal, NumberedEntry
from contree.domain.outcome import NOT_EXITED, CapturedStream, ProcessOutcome, ResourceUsage
from contree.domain.stream_text import cut_at_character
from contree.http.execution.journal_reader import JournalReader
from contree.http.execution.run_value import result_value, stream_value

MACHINE_SPID = 0
NOTHING = CapturedStream(sha256="", size_bytes=0)
"""Its place is taken by the text itself."""


@dataclass(slots=True)
class _Seen:
    """What the journal tells of a process."""

    spawned_at: datetime | None = None
    pid: int = -1
    exited: dict[str, Any] | None = None
    output: dict[str, bytearray] = field(
        default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()}
    )
    truncated: set[str] = field(default_factory=set)
    exit_number: int | None = None

    def take(self, numbered: NumberedEntry) -> None:
        entry = numbered.entry
        if entry.type == "spawn":
            self.spawned_at, self.pid = entry.at, entry.data["pid"]
        elif entry.type in self.output:
            self.output[entry.type] += _bytes_of(entry.data["value"], entry.data["encoding"])
        elif entry.type == "truncated":
            self.truncated.add(entry.data["stream"])
        elif entry.type == "exit":
            self.exited, self.exit_number = dict(entry.data), numbered.number


async def process_result(
    journal: Journal, operation_id: UUID, spid: int, *, now: datetime
) -> dict[str, Any] | None:
    """Return the InstanceResult of process `spid`; None while no such process was started."""
    seen, after, more = _Seen(), -1, True
    reader = JournalReader(journal, operation_id, spid=spid)
    while more:
        entries, more = await reader.page(after=after)
        for numbered in entries:
            seen.take(numbered)
            after = numbered.number
    if seen.spawned_at is None:
        return None
    for numbered in await journal.read(operation_id, spid=MACHINE_SPID):
        full = numbered.entry.type == "size_cap"
        if full and (seen.exit_number is None or seen.exit_number > numbered.number):
            seen.truncated |= seen.output.keys()  # what came then was left out
    return _result(seen, now - seen.spawned_at)


def unstarted_result() -> dict[str, Any]:
    """Return the InstanceResult of a process that is still to be started."""
    return _result(_Seen(), timedelta(0))


def _result(seen: _Seen, running: timedelta) -> dict[str, Any]:
    streams = {}
    for name, data in seen.output.items():
        truncated = name in seen.truncated
        # More may come, or was left out: only whole characters are shown.
        whole = bytes(data) if seen.exited and not truncated else cut_at_character(bytes(data))
        streams[name] = stream_value(whole, truncated=truncated)
    running_us = max(0, round(running / timedelta(microseconds=1)))
    outcome = _outcome(seen.exited, pid=seen.pid, running_us=running_us)
    return result_value(outcome, stdout=streams["stdout"], stderr=streams["stderr"])


def _outcome(exited: dict[str, Any] | None, *, pid: int, running_us: int) -> ProcessOutcome:
    if exited is None:
        exited = {
            "code": NOT_EXITED,
            "signal": NOT_EXITED,
            "timed_out": False,
            "oom_killed": False,
            "duration_ms": running_us // 1000,
            "resources": {},
        }
    return ProcessOutcome(
        pid=pid,
        exit_code=exited["code"],
        signal=exited["signal"],
        core_dumped=exited.get("core_dump", False),
        timed_out=exited["timed_out"],
        oom_killed=exited["oom_killed"],
        duration_us=exited["duration_ms"] * 1000,
        usage=ResourceUsage(**exited["resources"]),
        stdout=NOTHING,
        stderr=NOTHING,
    )


def _bytes_of(value: str, encoding: str) -> bytes:
    return b64decode(value) if encoding == "base64" else value.encode("utf-8")
