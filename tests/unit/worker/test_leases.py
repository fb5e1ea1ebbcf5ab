"""Whose lease is renewed, whose is taken, and when a clock is said to be wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from contree.domain.errors import UnavailableError
from contree.worker import leases
from contree.worker.leases import Leases
from tests.fakes.clock import FakeClock

WAIT_S = 10
HELD = (UUID(int=7),)


class Queue:
    """Renews at its own time; says what was asked, in order."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ahead = timedelta()
        self.away = 0
        self.asked: list[str] = []
        self.taken = asyncio.Event()

    async def renew(
        self, operation_ids: Collection[UUID], *, worker: str, lease_s: float
    ) -> datetime:
        assert (operation_ids, worker, lease_s) == (HELD, "w", leases.LEASE_S)
        if self.away:
            self.away -= 1
            self.asked.append("away")
            raise UnavailableError("the database is away")
        self.asked.append("renewed")
        return self.clock.now() + self.ahead

    async def others(self) -> int:
        self.asked.append("others")
        self.taken.set()
        return 0


@asynccontextmanager
async def keeping(queue: Queue):
    kept = Leases(worker="w", queue=queue, recover=queue, clock=queue.clock, held=lambda: HELD)
    task = asyncio.create_task(kept.keep())
    try:
        async with asyncio.timeout(WAIT_S):
            yield kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_others_leases_are_not_taken_before_their_holders_had_time_to_renew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a start, and after the database was away for longer than a lease."""
    monkeypatch.setattr(leases, "LEASE_S", 0.6)
    queue = Queue(FakeClock())
    async with keeping(queue):
        await queue.taken.wait()
        begun = queue.asked.index("others")
        queue.taken.clear()
        queue.away = 4
        await queue.taken.wait()
        while "away" not in queue.asked:
            queue.taken.clear()
            await queue.taken.wait()
    after = queue.asked[len(queue.asked) - queue.asked[::-1].index("away") :]
    # A third of a lease apart: the first, and three more by the time that a lease is over.
    assert queue.asked[:begun] == ["renewed"] * begun
    assert begun >= 4
    assert after[:4] == ["renewed"] * 4


async def test_it_tells_when_it_renewed_last() -> None:
    queue = Queue(FakeClock())
    async with keeping(queue) as kept:
        assert kept.renewed_at is None
        while kept.renewed_at is None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        assert kept.renewed_at == queue.clock.now()


@pytest.mark.parametrize(
    ("ahead_s", "told"),
    [(-90, "90.0 s ahead of"), (90, "90.0 s behind"), (1.5, None), (-1.5, None)],
)
async def test_a_clock_that_is_wrong_is_told_once(
    ahead_s: float,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(leases, "LEASE_S", 0.03)
    queue = Queue(FakeClock())
    queue.ahead = timedelta(seconds=ahead_s)
    async with keeping(queue):
        while len(queue.asked) < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    words = "this host's clock is {} the database's: times in the log will be wrong, set it by NTP"
    expected = [] if told is None else [words.format(told)]
    assert [record.getMessage() for record in caplog.records] == expected
