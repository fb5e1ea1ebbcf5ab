"""Keep the leases of what runs here, and requeue what lost workers hold; every LEASE_S / 3.

A lease that ran out tells that its worker is gone only if the database was there meanwhile. So
others' are taken only by a worker that has itself renewed without a gap for as long as a lease
lasts: whoever held one before an outage had the time to renew it after.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from uuid import UUID

from contree.app.clock import Clock
from contree.app.recover import Recover
from contree.app.work_queue import WorkQueue
from contree.domain.errors import ConflictError, StorageFullError, UnavailableError

LEASE_S = 60.0
RETRY_S = 1.0
SKEW_MAX_S = 2.0
"""How far our clock may be from the database's before we say so: times in the log are ours."""

NOT_NOW = (ConflictError, StorageFullError, UnavailableError)
"""What the log cannot do now and can later."""

log = logging.getLogger(__name__)


class Leases:
    """`held` gives the operations that run here, `renewed_at` when their leases were renewed."""

    def __init__(
        self,
        *,
        worker: str,
        queue: WorkQueue,
        recover: Recover,
        clock: Clock,
        held: Callable[[], Collection[UUID]],
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._recover = recover
        self._clock = clock
        self._held = held
        self._renewed_s: float | None = None
        self._steady_since_s = 0.0
        self._is_skewed = False
        self.renewed_at: datetime | None = None

    async def keep(self) -> None:
        """Do it for ever. Raises what cannot be gone on from."""
        while True:
            try:
                await self._renew()
                if self._now_s() - self._steady_since_s >= LEASE_S:
                    await self._recover.others()
            except NOT_NOW as error:
                log.warning("leases not renewed, or lost operations not requeued: %s", error)
                await asyncio.sleep(min(RETRY_S, LEASE_S / 3))
            else:
                await asyncio.sleep(LEASE_S / 3)

    async def _renew(self) -> None:
        asked_at = self._clock.now()
        there = await self._queue.renew(self._held(), worker=self._worker, lease_s=LEASE_S)
        now_s, self.renewed_at = self._now_s(), self._clock.now()
        if self._renewed_s is None or now_s - self._renewed_s > LEASE_S * 2 / 3:
            self._steady_since_s = now_s
        self._renewed_s = now_s
        self._compare_clocks(asked_at, there, self.renewed_at)

    def _compare_clocks(self, asked_at: datetime, there: datetime, answered_at: datetime) -> None:
        """The database's time was read between two of ours: what is outside is skew."""
        skew = max(asked_at - there, there - answered_at, timedelta())
        is_skewed = skew > timedelta(seconds=SKEW_MAX_S)
        if is_skewed and not self._is_skewed:
            log.warning(
                "this host's clock is %.1f s %s the database's: times in the log will be wrong,"
                " set it by NTP",
                skew.total_seconds(),
                "ahead of" if asked_at > there else "behind",
            )
        self._is_skewed = is_skewed

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
