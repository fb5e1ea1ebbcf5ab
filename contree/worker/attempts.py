"""One attempt at an operation, and what becomes of the operation when it does not come to its end.

An attempt counts when its own guest or worker died under it, by a defect of ours, and when it
filled the disk by itself. What was away, full or stopped is no fault of the operation: it is handed
back to the queue, as often as need be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from contree.app.conclude import Conclude
from contree.domain.errors import ContreeError, StorageFullError, UnavailableError
from contree.domain.operation import Operation
from contree.worker.leases import NOT_NOW
from contree.worker.obstacles import Obstacles

AGAIN_S = 2.0
HAND_BACK_S = 10.0
"""How long a worker that stops tries to record what it hands back."""

ROOM_BACK_S = 5.0
"""How soon after an attempt that filled the disk by itself there is room again."""

log = logging.getLogger(__name__)

Execute = Callable[[Operation], Awaitable[None]]


class Attempts:
    """Made by one worker, in its name."""

    def __init__(self, *, worker: str, conclude: Conclude, obstacles: Obstacles) -> None:
        self._worker = worker
        self._conclude = conclude
        self._obstacles = obstacles

    async def make(
        self, operation: Operation, execute: Execute, *, is_unwanted: Callable[[], bool]
    ) -> None:
        """Carry `operation` out, or record why not.

        Cancelling leaves it running in the log at first; then the reason is recorded: a client's
        wish (`is_unwanted`), else the worker's stop.
        """
        log.info("operation %s: attempt %d begins", operation.id, operation.attempts)
        try:
            await self._try(operation, execute)
        except asyncio.CancelledError:
            # A wish to cancel that is in the log makes `lose` record the cancellation.
            reason = f"worker {self._worker} was stopped"
            if is_unwanted():
                await self._lose(operation, reason, counted=False)
            else:
                await asyncio.shield(self._hand_back_in_time(operation, reason))

    async def _try(self, operation: Operation, execute: Execute) -> None:
        try:
            await execute(operation)
        except UnavailableError as error:
            log.warning("operation %s: what it needs is away: %s", operation.id, error)
            await self._lose(operation, f"what it needs was away: {error}", counted=False)
        except StorageFullError as error:
            log.warning("operation %s: there is no room for it: %s", operation.id, error)
            await self._lose(operation, str(error), counted=await self._has_room_again())
        except ContreeError as error:
            log.exception("operation %s failed", operation.id)
            await self._lose(operation, str(error))
        except Exception:
            log.exception("operation %s hit a defect", operation.id)
            await self._lose(operation, "internal error, see the worker's log")
        else:
            log.info("operation %s: attempt %d ended", operation.id, operation.attempts)

    async def _has_room_again(self) -> bool:
        """Whether a disk that was full has room now that the attempt's own files are gone.

        Then it was the attempt that filled it, and would again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(ROOM_BACK_S):
                while self._obstacles.first() is not None:  # noqa: ASYNC110 - a disk tells nobody
                    await asyncio.sleep(ROOM_BACK_S / 50)
        return self._obstacles.first() is None

    async def _lose(self, operation: Operation, reason: str, *, counted: bool = True) -> None:
        """Until it is recorded it is ours: our lease, renewed, keeps everybody else away."""
        while True:
            try:
                await self._conclude.lose(
                    operation.id, reason, attempt=operation.attempts, counted=counted
                )
            except NOT_NOW as error:
                log.warning("operation %s: its loss is not recorded yet: %s", operation.id, error)
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _hand_back_in_time(self, operation: Operation, reason: str) -> None:
        """What cannot be recorded in time is found at the next start, as if the worker had died."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._lose(operation, reason, counted=False)
        except TimeoutError:
            log.exception("operation %s: it could not be handed back in time", operation.id)
