"""Connections to the database as the service uses them: restricted role, bounded in every way.

Each connection acts as `contree_app`, which may append to the log but not change it. Owners connect
by `connect_as_owner`: migrations and rebuilds only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from contree.adapters.postgres.failures import translated

APP_ROLE = "contree_app"
APPLICATION = "contreed"
APPLICATION_APART = "contreed, apart from the pool"
"""The `application_name` of the pool's sessions and of the others, for who looks at the server."""

READ_SCHEMA = "read"
CONNECTIONS_MAX = 10
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 30.0

BOUNDS: Mapping[str, str] = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "statement_timeout": "30s",
    "timezone": "UTC",
    "jit": "off",
}


def app_settings() -> dict[str, str]:
    """What each of the service's sessions starts with."""
    return {
        **BOUNDS,
        "role": APP_ROLE,
        "search_path": f"{READ_SCHEMA}, public",
        "application_name": APPLICATION,
    }


async def open_pool(dsn: str, *, connections_max: int = CONNECTIONS_MAX) -> asyncpg.Pool:
    """Open the service's pool. Raises UnavailableError when the database is not there."""
    with translated():
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=connections_max,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings=app_settings(),
            init=_use_plain_uuids,
            reset=_leave_as_it_is,
        )


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Spare each query the driver's round trip that resets the session: nothing here changes one.

    Nothing borrowed from the pool sets a variable, listens, or takes a session-level lock; locks
    are the transaction's, and listening has connections of its own (`connect`).
    """


async def _use_plain_uuids(connection: asyncpg.Connection) -> None:
    """The driver's own UUID class equals the standard one, but encoders by exact type refuse it."""
    await connection.set_type_codec(
        "uuid",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: value.bytes,
        decoder=lambda data: UUID(bytes=data),
    )


async def connect(dsn: str) -> asyncpg.Connection:
    """Open one of the service's connections outside the pool: to listen, or to lead."""
    return await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        server_settings={**app_settings(), "application_name": APPLICATION_APART},
    )


async def connect_as_owner(dsn: str) -> asyncpg.Connection:
    """Open a connection with all rights of the DSN. Raises UnavailableError."""
    with translated():
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": "contreed owner",
                "timezone": "UTC",
                # What a killed rebuild held is let go even while its session waits for a lock.
                "client_connection_check_interval": "1s",
            },
        )


class PostgresDatabase:
    """The read side's access to SQL (app.projection.Database) over the pool.

    `guard` is a query that fails where this process must not work (read_models.guard_of).
    """

    def __init__(self, pool: asyncpg.Pool, *, guard: str = "SELECT") -> None:
        self._pool = pool
        self._guard = guard

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        with translated():
            rows: Sequence[Mapping[str, Any]] = await self._pool.fetch(statement, *arguments)
            return rows

    async def fetchrow(self, statement: str, *arguments: Any) -> Mapping[str, Any] | None:
        with translated():
            row: Mapping[str, Any] | None = await self._pool.fetchrow(statement, *arguments)
            return row

    async def version(self) -> str:
        """Return what the server is, such as `PostgreSQL 18.1`."""
        row = await self.fetchrow("SELECT version() AS version")
        return "" if row is None else str(row["version"]).split(" on ")[0]

    async def check(self) -> None:
        """Raise UnavailableError unless the database answers, with read models of this release."""
        await self.fetch(self._guard)
