"""What worker processes do for the deployment beside running operations.

Each duty is one endless task that one process at a time does (app.leadership). A duty that fails is
begun again: it goes on from what it last wrote, never from what it remembers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from contree.app.leadership import Leadership
from contree.domain.errors import ContreeError

BEGIN_AGAIN_S = 2.0

log = logging.getLogger(__name__)


class Duty(Protocol):
    """`name` elects who does it and stands in the log."""

    @property
    def name(self) -> str: ...

    async def run(self) -> None:
        """Do it for ever. Raises when it cannot go on from where it is."""
        ...


@asynccontextmanager
async def duties_kept(duties: Sequence[Duty], leadership: Leadership) -> AsyncIterator[None]:
    """Do all of `duties`, each while this process leads it, until the end of the context."""
    tasks = [asyncio.create_task(_keep(d, leadership), name=f"duty {d.name}") for d in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(duty: Duty, leadership: Leadership) -> None:
    while True:
        try:
            async with leadership.lead(duty.name):
                log.debug("duty %s begins here", duty.name)
                await duty.run()
        except ContreeError as error:
            log.warning("duty %s: %s", duty.name, error)
        except Exception:
            log.exception("duty %s hit a defect", duty.name)
        await asyncio.sleep(BEGIN_AGAIN_S)
