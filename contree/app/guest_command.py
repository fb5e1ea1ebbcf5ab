"""Run the main command of an instance in a guest that is up, and collect what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from contree.app.microvm import (
    Exited,
    Guest,
    Output,
    ProcessSpec,
    SpawnRefused,
    Stream,
    Truncated,
)
from contree.app.operation_journal import MAIN_SPID, OperationJournal
from contree.domain.errors import GuestFailure, NotFoundError, OperationFailure

EXIT_GRACE_S = 15.0
"""How long after the command's own timeout the guest may take to say that it has ended."""


@dataclass(slots=True)
class CapturedOutput:
    """One stream of the main process as it arrives. The guest keeps to the cap; we make sure."""

    cap_bytes: int
    data: bytearray = field(default_factory=bytearray)
    dropped_bytes: int = 0

    def add(self, data: bytes) -> None:
        if len(self.data) + len(data) > self.cap_bytes:
            raise GuestFailure("the guest sent more output than it was allowed to")
        self.data += data


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How the main command ended, and what it wrote, at most the cap of each stream."""

    exited: Exited
    stdout: CapturedOutput
    stderr: CapturedOutput


async def run_command(
    guest: Guest,
    spec: ProcessSpec,
    *,
    stdin: AsyncIterator[bytes] | None,
    shell: bool,
    journal: OperationJournal,
) -> CommandResult:
    """Start `spec` as the main process, feed it `stdin`, and return when it has ended.

    `stdin` ends with end of file. Raises OperationFailure when the command cannot be started and
    GuestFailure when the guest does not report its end within EXIT_GRACE_S after its timeout.
    """
    try:
        pid = await guest.spawn(MAIN_SPID, spec)
    except SpawnRefused as refusal:
        await journal.ended("spawn_failed")
        raise OperationFailure(
            f"command '{spec.argv[0]}' could not be started: {refusal.reason}"
        ) from refusal
    await journal.spawned(MAIN_SPID, pid, spec, shell=shell)
    feeding = asyncio.create_task(_feed(guest, stdin)) if stdin is not None else None
    try:
        async with asyncio.timeout(spec.timeout_ms / 1000 + EXIT_GRACE_S):
            result = await _until_exit(guest, spec, journal)
    except TimeoutError:
        raise GuestFailure(
            f"the guest did not report the end of the command {EXIT_GRACE_S:.0f} s "
            "after its timeout"
        ) from None
    finally:
        if feeding is not None:
            feeding.cancel()
            with suppress(asyncio.CancelledError, GuestFailure):
                await feeding
    await journal.ended("timeout" if result.exited.timed_out else "job_complete")
    return result


async def _feed(guest: Guest, stdin: AsyncIterator[bytes]) -> None:
    # A process may end, or close its input, before it has read everything: that is its right.
    with suppress(NotFoundError):
        async for chunk in stdin:
            await guest.write_stdin(MAIN_SPID, chunk)
        await guest.close_stdin(MAIN_SPID)


async def _until_exit(guest: Guest, spec: ProcessSpec, journal: OperationJournal) -> CommandResult:
    captured = {stream: CapturedOutput(spec.output_bytes_max) for stream in Stream}
    async for event in guest.events():
        await journal.observed(event)
        if event.spid != MAIN_SPID:
            continue
        if isinstance(event, Output):
            captured[event.stream].add(event.data)
        elif isinstance(event, Truncated):
            captured[event.stream].dropped_bytes = event.dropped_bytes
        else:
            return CommandResult(
                exited=event, stdout=captured[Stream.STDOUT], stderr=captured[Stream.STDERR]
            )
    raise GuestFailure("the guest went away before the command ended")
