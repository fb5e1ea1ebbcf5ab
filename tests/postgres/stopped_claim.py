"""A worker that stops itself (SIGSTOP) in the middle of a claim: what it claims is known to it, and
nothing of that is recorded.

Usage: python -m tests.postgres.stopped_claim DSN TAKE_S. Told to go on (SIGCONT), it prints how
many operations it was given in the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from contree.adapters.postgres import work_queue
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.pool import open_pool
from contree.domain.operation import Kind
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeClock
from tests.support.histories import context_at


class StoppingLog(PostgresEventLog):
    """Stops the whole process between what a claim reads and what it appends."""

    def folded(self, cls: Any, rows: Iterable[Mapping[str, Any]]) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().folded(cls, rows)


async def main(dsn: str, take_s: float) -> None:
    work_queue.TAKE_S = take_s
    pool = await open_pool(dsn)
    queue = work_queue.PostgresWorkQueue(
        pool, StoppingLog(pool, ALL), listener=PostgresListener(dsn)
    )
    claimed = await queue.claim(
        worker="stopped",
        kind=Kind.INSTANCE,
        limit=1,
        running_per_project_max=10,
        lease_until=EPOCH + timedelta(seconds=60),
        context=context_at(FakeClock(), UUID(int=0)),
    )
    await pool.close()
    print(len(claimed), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
