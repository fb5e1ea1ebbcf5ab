"""One worker of a name at a time, whatever becomes of the connection that holds the name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contree.adapters.postgres import leadership
from contree.adapters.postgres.leadership import PostgresLeadership
from contree.adapters.postgres.pool import KEEPALIVES, connect
from contree.adapters.system.host_mark import HostLeadership
from contree.domain.errors import UnavailableError
from contree.worker import sole
from contree.worker.sole import sole_worker
from tests.postgres.test_leadership import CUT
from tests.support.postgres import execute

pytestmark = pytest.mark.postgres

WAIT_S = 30


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "ASK_AGAIN_S", 0.02)
    monkeypatch.setattr(sole, "AGAIN_S", 0.02)


async def test_a_second_worker_of_a_name_is_refused_and_told_why(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = PostgresLeadership(postgres_dsn), PostgresLeadership(postgres_dsn)
    async with asyncio.timeout(WAIT_S), sole_worker("w1", first) as check:
        monkeypatch.setattr(sole, "WAIT_S", 0.3)
        with pytest.raises(UnavailableError) as refusal:
            async with sole_worker("w1", second):
                pass
        async with sole_worker("w2", second):
            pass
        assert check() is None
    assert str(refusal.value) == (
        "another worker is called 'w1' and runs: give each a worker_name of its own"
    )
    async with asyncio.timeout(WAIT_S), sole_worker("w1", second):
        pass  # the first has ended


async def test_a_name_whose_connection_is_lost_is_taken_again(postgres_dsn: str) -> None:
    async with (
        asyncio.timeout(WAIT_S),
        sole_worker("w1", PostgresLeadership(postgres_dsn)) as check,
    ):
        for _ in range(3):
            await execute(postgres_dsn, CUT)
            while check() is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
            lost = check()
            assert lost is None or lost.kind == "name"
            while check() is not None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)


async def test_on_one_host_the_data_directory_refuses_a_second_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostLeadership(tmp_path)
    assert not host.was_led("worker a/b")
    async with asyncio.timeout(WAIT_S), sole_worker("a/b", host):
        monkeypatch.setattr(sole, "WAIT_S", 0.3)
        with pytest.raises(UnavailableError, match="another worker"):
            async with sole_worker("a/b", HostLeadership(tmp_path)):
                pass
    assert host.was_led("worker a/b")
    assert [path.name for path in tmp_path.iterdir()] == ["worker-a-b.lock"]


async def test_a_database_that_is_away_is_not_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole, "WAIT_S", 0.3)
    nowhere = PostgresLeadership(f"postgresql:///x?host={tmp_path}")
    with pytest.raises(UnavailableError, match="database is not available"):
        async with sole_worker("w1", nowhere):
            pass


async def test_each_session_asks_the_server_to_notice_a_host_that_vanished(
    postgres_dsn: str,
) -> None:
    """A unix socket shows 0: what was asked for is in the settings' source."""
    connection = await connect(postgres_dsn)
    try:
        rows = await connection.fetch(
            "SELECT name, source FROM pg_settings WHERE name = ANY($1)", list(KEEPALIVES)
        )
    finally:
        await connection.close()
    assert {row["name"]: row["source"] for row in rows} == dict.fromkeys(KEEPALIVES, "client")
