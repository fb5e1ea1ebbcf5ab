"""One worker of a name at a time: a second one is refused, for it would take the first one's runs.

    asking --within WAIT_S--> held --its connection is lost--> asking again, for as long as it takes
    asking --another has it--> refused

A worker whose lock went with a restart of the database works on, claims nothing until it has the
lock again, and does not end what runs: leases keep that for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contree.app.leadership import Leadership
from contree.domain.errors import UnavailableError
from contree.worker.obstacles import HealthCheck, Obstacle

WAIT_S = 10.0
"""A worker that was killed a moment ago may hold its name for another moment."""

AGAIN_S = 0.2

log = logging.getLogger(__name__)


@asynccontextmanager
async def sole_worker(name: str, leadership: Leadership) -> AsyncIterator[HealthCheck]:
    """Be the only worker called `name` among those that `leadership` elects from.

    Yields a check of whether it is now. Raises UnavailableError when another one is.
    """
    held, lost = asyncio.Event(), list[UnavailableError]()
    keeper = asyncio.create_task(_keep(name, leadership, held, lost), name="the worker's name")
    try:
        waiting = asyncio.create_task(held.wait())
        await asyncio.wait({waiting, keeper}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not held.is_set():
            if lost:
                raise lost[-1]
            raise UnavailableError(
                f"another worker is called '{name}' and runs: give each a worker_name of its own"
            )

        def check() -> Obstacle | None:
            if held.is_set():
                return None
            return Obstacle(
                kind="name",
                reason=f"the name '{name}' is not held: lost with the database, or"
                " taken by another worker; give each a worker_name of its own",
            )

        yield check
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(
    name: str, leadership: Leadership, held: asyncio.Event, lost: list[UnavailableError]
) -> None:
    while True:
        try:
            async with leadership.lead(f"worker {name}"):
                held.set()
                await asyncio.Event().wait()
        except UnavailableError as error:
            lost[:] = [error]
            log.warning("the name of this worker, '%s', is not held: %s", name, error)
        finally:
            held.clear()
        await asyncio.sleep(AGAIN_S)
