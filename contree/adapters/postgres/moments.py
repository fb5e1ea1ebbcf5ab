"""Moments in which one process of the deployment at a time touches something outside the database.

A transaction's advisory lock: it goes with the connection, so who is killed holds up nobody. Few
connections at a time are used for it, since what is waited for meanwhile is not the database: the
service goes on while that is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

from contree.adapters.postgres.advisory import advisory_key
from contree.adapters.postgres.failures import translated
from contree.domain.errors import UnavailableError

AT_ONCE: Final = 2
MOMENT_S: Final = 20.0
"""Less than idle_in_transaction_session_timeout (pool): the lock does not go before the moment."""

LOCK: Final = "SELECT pg_advisory_xact_lock($1)"


class PostgresMoments:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._few = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Be the only one at `name` until the end of the context, a moment at most.

        Raises UnavailableError, also when the moment was too long.
        """
        async with self._few:
            with translated():
                async with self._pool.acquire() as connection, connection.transaction():
                    await connection.execute(LOCK, advisory_key("moment", name))
                    try:
                        async with asyncio.timeout(MOMENT_S):
                            yield
                    except TimeoutError:
                        raise UnavailableError(f"'{name}' took over {MOMENT_S:.0f} s") from None
