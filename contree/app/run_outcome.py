"""The outcome of a run's command: its output goes to the content store, the rest into the event."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

from contree.app.content.project_content import ProjectContent
from contree.app.guest.guest_command import CapturedOutput, CommandResult
from contree.app.outages import Outages
from contree.domain.errors import ContentErasedError, StorageFullError
from contree.domain.operation import Operation
from contree.domain.outcome import CapturedStream, ProcessOutcome

_Store = Callable[[CapturedOutput], Awaitable[CapturedStream]]


class RunOutcome:
    """Makes outcomes of one run. Waits while the store is away; raises UnavailableError after."""

    def __init__(self, content: ProjectContent, outages: Outages, operation: Operation) -> None:
        self._content = content
        self._outages = outages
        self._operation = operation

    async def whole(self, result: CommandResult) -> ProcessOutcome:
        """Return it with all that was captured. Raises StorageFullError, ContentErasedError."""
        return await _outcome(result, self._stored)

    async def as_possible(self, result: CommandResult) -> ProcessOutcome:
        """Return it; output that there is no place for counts as dropped."""
        return await _outcome(result, self._stored_or_dropped)

    async def _stored(self, output: CapturedOutput) -> CapturedStream:
        content = await self._outages.waited_out(
            f"an output of operation {self._operation.id}",
            partial(self._content.put_bytes, self._operation.project_id, bytes(output.data)),
        )
        return CapturedStream(
            sha256=content.sha256,
            size_bytes=content.size_bytes,
            dropped_bytes=output.dropped_bytes,
        )

    async def _stored_or_dropped(self, output: CapturedOutput) -> CapturedStream:
        try:
            return await self._stored(output)
        except (StorageFullError, ContentErasedError):
            return CapturedStream(
                sha256=hashlib.sha256().hexdigest(),
                size_bytes=0,
                dropped_bytes=len(output.data) + output.dropped_bytes,
            )


async def _outcome(result: CommandResult, store: _Store) -> ProcessOutcome:
    async def stored(output: CapturedOutput) -> CapturedStream:
        return await store(output)

    exited = result.exited
    storing = [asyncio.create_task(stored(one)) for one in (result.stdout, result.stderr)]
    try:
        stdout, stderr = await asyncio.gather(*storing)
    finally:  # where one fails, the other is not left behind
        for one in storing:
            one.cancel()
        await asyncio.gather(*storing, return_exceptions=True)
    return ProcessOutcome(
        pid=exited.pid,
        exit_code=exited.exit_code,
        signal=exited.signal,
        core_dumped=exited.core_dumped,
        timed_out=exited.timed_out,
        oom_killed=exited.oom_killed,
        duration_us=exited.duration_us,
        usage=exited.usage,
        stdout=stdout,
        stderr=stderr,
    )
