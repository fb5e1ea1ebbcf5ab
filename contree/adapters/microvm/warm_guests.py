"""Guests that wait: restored, rehearsed and stopped before it is known what they will run.

    missing --fill, one at a time--> waiting --take--> a run's own
                                     waiting --dies, too old, too many, another template--> ended

A guest that waits has been touched by nobody and is used once. Whoever wants one and finds none
makes its own guest, as without this. How many may wait, and whether there is time to make more, is
told from outside (`want`); nothing is done in between, so a loss is noticed at the next telling.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from contree.domain.errors import GuestFailure, StorageFullError

AGE_MAX_S = 3600.0
RETRY_FIRST_S = 60.0
RETRY_MAX_S = 3600.0

log = logging.getLogger(__name__)


class WaitingGuest(Protocol):
    """One that waits."""

    def flaw(self) -> str | None:
        """Return why it cannot be used, None when it can."""
        ...

    def end(self) -> None:
        """End it, without waiting."""
        ...


G = TypeVar("G", bound=WaitingGuest)


@dataclass(slots=True)
class WarmCounts:
    """Since the start of this process.

    made     guests that came to wait
    taken    of which a run had
    ended    given up, too many or too old
    flawed   that could not be used any more: died, or of a template that is gone
    failed   that could not be made
    """

    made: int = 0
    taken: int = 0
    ended: int = 0
    flawed: int = 0
    failed: int = 0


class WarmGuests(Generic[G]):
    """`make` makes a guest that waits. Cancelled, or when it raises, it leaves nothing."""

    def __init__(self, make: Callable[[], Awaitable[G]]) -> None:
        self.counts = WarmCounts()
        self._make = make
        self._waiting: deque[tuple[float, G]] = deque()  # with when it came, oldest first
        self._filling: asyncio.Task[None] | None = None
        self._wanted = 0
        self._retry_s = RETRY_FIRST_S
        self._not_before = 0.0  # by the event loop's clock

    @property
    def waiting(self) -> Sequence[G]:
        return [guest for _, guest in self._waiting]

    def want(self, count: int, *, fill: bool) -> None:
        """Let at most `count` wait: the others end at once. Missing ones are made while `fill`."""
        self._wanted = count
        self._sort_out()
        while len(self._waiting) > count:
            self.counts.ended += 1
            self._waiting.popleft()[1].end()
        if not fill or len(self._waiting) >= count:
            self._stop_filling()
        elif self._filling is None and self._now() >= self._not_before:
            self._filling = asyncio.create_task(self._fill(), name="warm guests")

    def take(self) -> G | None:
        """Return a guest that is the caller's from now on; None when none waits."""
        self._sort_out()
        if not self._waiting:
            return None
        self.counts.taken += 1
        _, guest = self._waiting.popleft()
        log.debug("guests that wait: %d", len(self._waiting))
        return guest

    async def settled(self) -> None:
        """Wait until none is being made."""
        if self._filling is not None:
            await asyncio.wait({self._filling})

    async def aclose(self) -> None:
        """End all, and stop making more."""
        filling = self._filling
        self.want(0, fill=False)
        if filling is not None:
            await asyncio.wait({filling})
        self.want(0, fill=False)  # one may have been done just then

    def _sort_out(self) -> None:
        """End what is flawed or too old."""
        kept: deque[tuple[float, G]] = deque()
        for since, guest in self._waiting:
            flaw = guest.flaw()
            if flaw is not None:
                self.counts.flawed += 1
                log.warning("a waiting guest is given up (%d so far): %s", self.counts.flawed, flaw)
            elif self._now() - since <= AGE_MAX_S:
                kept.append((since, guest))
                continue
            else:
                self.counts.ended += 1
            guest.end()
        self._waiting = kept

    def _stop_filling(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None

    async def _fill(self) -> None:
        try:
            while len(self._waiting) < self._wanted:
                guest = await self._make()
                self._waiting.append((self._now(), guest))
                self.counts.made += 1
                log.debug("guests that wait: %d", len(self._waiting))
                self._retry_s = RETRY_FIRST_S
        except (GuestFailure, StorageFullError) as failure:
            log.warning("no guest to wait, again in %g s: %s", self._retry_s, failure)
            self._failed()
        except Exception:
            log.exception("no guest to wait, again in %g s", self._retry_s)
            self._failed()
        finally:
            if self._filling is asyncio.current_task():
                self._filling = None

    def _failed(self) -> None:
        self.counts.failed += 1
        self._not_before = self._now() + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
