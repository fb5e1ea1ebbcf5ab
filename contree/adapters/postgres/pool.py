"""Connections to the database as the service uses them: restricted role, bounded in every way.

Each connection acts as `contree_app`, which may append to the log but not change it. Owners connect
by `connect_as_owner`: migrations and rebuilds only.

A host or network that vanishes says no goodbye. Both ends ask after KEEPALIVE_IDLE_S of silence and
give up after some 25 s: so locks of a session (leadership, a worker's name) pass on within half a
minute. A unix socket needs none of that, and ignores it.
"""

from __future__ import annotations

import socket
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
ACQUIRE_TIMEOUT_S = 10.0
"""How long a query may wait for a connection of the pool before the database counts as away."""

STATEMENT_TIMEOUT_S = 30.0

QUERIES_MAX = 50_000
IDLE_MAX_S = 300.0
"""After so many queries, or so long without one, a connection of the pool is closed."""

KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
UNANSWERED_MS = 25_000
"""How long what was sent may stay unacknowledged (TCP_USER_TIMEOUT)."""

BOUNDS: Mapping[str, str] = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "statement_timeout": "30s",
    "timezone": "UTC",
    "jit": "off",
}
KEEPALIVES: Mapping[str, str] = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_S),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
    "tcp_user_timeout": str(UNANSWERED_MS),
}
"""What the server is to do on its end of a connection."""


def app_settings() -> dict[str, str]:
    """What each of the service's sessions starts with."""
    return {
        **BOUNDS,
        **KEEPALIVES,
        "role": APP_ROLE,
        "search_path": f"{READ_SCHEMA}, public",
        "application_name": APPLICATION,
    }


class BoundedPool(asyncpg.Pool):  # type: ignore[misc]  # the driver has no types
    """A pool in which nobody waits for a connection for ever."""

    def acquire(self, *, timeout: float | None = None) -> Any:
        """Raises TimeoutError after ACQUIRE_TIMEOUT_S, unless told otherwise."""
        return super().acquire(timeout=ACQUIRE_TIMEOUT_S if timeout is None else timeout)


async def open_pool(
    dsn: str, *, connections_min: int = 1, connections_max: int = CONNECTIONS_MAX
) -> asyncpg.Pool:
    """Open the service's pool. Raises UnavailableError when the database is not there.

    With `connections_min` 0 it connects when it is used first.
    """
    with translated():
        return await BoundedPool(
            dsn,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
            min_size=connections_min,
            max_size=connections_max,
            max_queries=QUERIES_MAX,
            max_inactive_connection_lifetime=IDLE_MAX_S,
            loop=None,
            connect=_connected,
            setup=None,
            init=_use_plain_uuids,
            reset=_leave_as_it_is,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings=app_settings(),
        )


async def _connected(*arguments: Any, **options: Any) -> asyncpg.Connection:
    """Connect, and have our end ask whether the other is still there: tcp(7)."""
    connection = await asyncpg.connect(*arguments, **options)
    # The driver shows its socket nowhere else.
    ours = connection._transport.get_extra_info("socket")  # noqa: SLF001
    if ours is not None and ours.family != socket.AF_UNIX:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    return connection


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
    return await _connected(
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
