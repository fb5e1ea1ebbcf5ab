"""Leadership (app.leadership.Leadership): an advisory lock of a connection of its own.

A process that dies loses its connection, and with it the lock, at once; one whose host vanishes
loses it when the server's TCP keepalive gives up (pool: within half a minute).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from contree.adapters.postgres.advisory import advisory_key
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.pool import connect
from contree.domain.errors import UnavailableError

ASK_AGAIN_S = 2.0
CLOSE_S = 1.0
TRY = "SELECT pg_try_advisory_lock($1)"


class PostgresLeadership:
    """Made with the service's DSN; holds nothing between contexts."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @contextlib.asynccontextmanager
    async def lead(self, name: str) -> AsyncIterator[None]:
        with translated():
            connection = await connect(self._dsn)
        lost, key = asyncio.Event(), advisory_key("leadership", name)
        leader = asyncio.current_task()
        assert leader is not None

        def on_lost(*_: Any) -> None:
            lost.set()
            leader.cancel()

        try:
            with translated():
                # Asking again leaves no transaction open, as waiting in the database would.
                while not await connection.fetchval(TRY, key):  # noqa: ASYNC110 - not our event
                    await asyncio.sleep(ASK_AGAIN_S)
            connection.add_termination_listener(on_lost)
            try:
                yield
            except asyncio.CancelledError:
                if not lost.is_set() or leader.uncancel() > 0:
                    raise  # somebody else wants us to end
                raise UnavailableError(
                    f"the lead in '{name}' was lost with its connection"
                ) from None
            finally:
                if not lost.is_set():
                    connection.remove_termination_listener(on_lost)
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=CLOSE_S)
