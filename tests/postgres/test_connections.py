"""Connections over TCP notice a vanished host; a server without free ones is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import asyncpg
import pytest

from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.journal import PostgresJournal
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import connect, open_pool
from contree.app import outages
from contree.app.journal import JournalEntry
from contree.app.outages import Outages
from contree.projections import ALL
from tests.fakes.clock import EPOCH, FakeIds

pytestmark = pytest.mark.postgres

ADDRESS = "127.77.0.5"
CONNECTIONS = 8
AN_ENTRY = JournalEntry(at=EPOCH, type="init", spid=0, data={})
IDS = FakeIds(space=12)


async def keepalive(connection: asyncpg.Connection) -> dict[str, object]:
    """What both ends of a connection do when nothing comes."""
    ours: socket.socket = connection._transport.get_extra_info("socket")
    tcp = socket.IPPROTO_TCP
    shown = [
        await connection.fetchval(f"SHOW {name}")
        for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    ]
    return {
        "ours": (
            ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            ours.getsockopt(tcp, socket.TCP_KEEPIDLE),
            ours.getsockopt(tcp, socket.TCP_KEEPINTVL),
            ours.getsockopt(tcp, socket.TCP_KEEPCNT),
            ours.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
        ),
        "theirs": (*shown, await connection.fetchval("SHOW tcp_user_timeout")),
    }


async def test_both_ends_ask_whether_the_other_is_still_there(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings={"listen_addresses": ADDRESS})
    await server.start()
    try:
        await migrate(server.dsn, projections=ALL)
        dsn = f"postgresql://contree_owner@{ADDRESS}/contree"
        apart = await connect(dsn)
        try:
            alone = await keepalive(apart)
        finally:
            await apart.close()
        pool = await open_pool(dsn)
        async with pool.acquire() as connection:
            pooled = await keepalive(connection)
        await pool.close()
    finally:
        await server.stop()
    assert alone == pooled == {"ours": (1, 10, 5, 3, 25_000), "theirs": ("10", "5", "3", "25000")}


async def test_at_the_servers_limit_of_connections_work_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "PAUSE_FIRST_S", 0.01)
    server = EmbeddedPostgres(
        tmp_path,
        settings={"max_connections": str(CONNECTIONS), "superuser_reserved_connections": "2"},
    )
    await server.start()
    try:
        await migrate(server.dsn, projections=ALL, app_logs_in=True)
        pool = await open_pool(server.app_dsn, connections_min=0)
        waiting, operation_id = Outages(), IDS.new_id()
        journal = PostgresJournal(pool)
        async with contextlib.AsyncExitStack() as others:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    other = await asyncpg.connect(server.app_dsn)
                    others.push_async_callback(other.close)
            writing = asyncio.create_task(
                waiting.waited_out("it", lambda: journal.append(operation_id, [AN_ENTRY]))
            )
            async with asyncio.timeout(30):
                while waiting.problem is None:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
            assert "connection" in waiting.problem
            assert not writing.done()
        async with asyncio.timeout(30):
            await writing
        assert [e.entry for e in await journal.read(operation_id)] == [AN_ENTRY]
        await pool.close()
    finally:
        await server.stop()
