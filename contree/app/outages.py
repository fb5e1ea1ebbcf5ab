"""Wait while something is away that comes back: the database, the store.

An interruption costs a run time, and never an attempt. Waiting is bounded, and needs no buffer: who
waits takes nothing more, so a guest whose output cannot be written is held up (backpressure).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeVar

from contree.domain.errors import ContreeError, StorageFullError, UnavailableError

AWAY_MAX_S: Final = 600.0
PAUSE_FIRST_S: Final = 0.1
PAUSE_LAST_S: Final = 5.0

AWAY: Final[tuple[type[ContreeError], ...]] = (UnavailableError,)
LOG_AWAY: Final = (UnavailableError, StorageFullError)
"""Of calls to the database alone: there StorageFullError says that its disk is full, not ours."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Outages:
    """Made once a process, so that it knows whether anything waits: then no more is taken on."""

    def __init__(self, *, within_s: float = AWAY_MAX_S) -> None:
        self._within_s = within_s
        self._problems: dict[object, str] = {}

    @property
    def problem(self) -> str | None:
        """What one of those who wait was told last; None while nobody waits."""
        return next(iter(self._problems.values()), None)

    async def waited_out(
        self,
        what: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        on: tuple[type[ContreeError], ...] = AWAY,
    ) -> T:
        """Return what `attempt` returns; while it raises one of `on`, wait and call it again.

        `attempt` must be safe to repeat although it was done and only the answer was lost. `what`
        is for the log. Raises the last error after the time that waiting may take.
        """
        try:
            return await attempt()
        except on as error:
            return await self._repeated(what, attempt, on, error)

    async def read(
        self, what: str, opened: Callable[[], AsyncGenerator[bytes, None]]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of `opened()`; where that breaks off, go on in another from there."""
        given = 0
        stream: AsyncGenerator[bytes, None] | None = None

        async def next_piece() -> bytes:
            nonlocal stream
            try:
                if stream is None:
                    stream = opened()
                    skipped = 0
                    while skipped < given:
                        piece = await anext(stream)
                        skipped += len(piece)
                        if skipped > given:
                            return piece[given - skipped :]
                return await anext(stream, b"")
            except AWAY:
                stream = None
                raise

        try:
            while piece := await self.waited_out(what, next_piece):
                given += len(piece)
                yield piece
        finally:
            if stream is not None:
                await stream.aclose()

    async def _repeated(
        self,
        what: str,
        attempt: Callable[[], Awaitable[T]],
        on: tuple[type[ContreeError], ...],
        error: ContreeError,
    ) -> T:
        loop, me = asyncio.get_running_loop(), object()
        began, pause_s = loop.time(), PAUSE_FIRST_S
        log.warning("%s: waiting up to %.0f s: %s", what, self._within_s, error)
        try:
            while loop.time() - began < self._within_s:
                self._problems[me] = str(error)
                # At different moments: those who wait must not all come back in the same one.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause_s = min(PAUSE_LAST_S, pause_s * 2)
                try:
                    done = await attempt()
                except on as again:
                    error = again
                else:
                    log.info("%s: it goes on after %.1f s", what, loop.time() - began)
                    return done
            raise error
        finally:
            self._problems.pop(me, None)
