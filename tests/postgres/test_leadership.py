"""One leads at a time, the next takes over, and who loses the connection learns of it."""

from __future__ import annotations

import asyncio

import pytest

from contree.adapters.postgres import leadership
from contree.adapters.postgres.leadership import PostgresLeadership
from contree.domain.errors import UnavailableError
from tests.support.postgres import execute

pytestmark = pytest.mark.postgres

WAIT_S = 10
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND datname = current_database() AND granted"
)


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "ASK_AGAIN_S", 0.02)


async def test_the_second_leads_when_the_first_ends(postgres_dsn: str) -> None:
    first, second = PostgresLeadership(postgres_dsn), PostgresLeadership(postgres_dsn)
    led: list[str] = []

    async def lead_second() -> None:
        async with second.lead("duty"):
            led.append("second")

    async with first.lead("duty"):
        waiting = asyncio.create_task(lead_second())
        async with second.lead("another duty"):
            led.append("other")
        led.append("first")
    async with asyncio.timeout(WAIT_S):
        await waiting
    assert led == ["other", "first", "second"]


async def _lead_while_cut(dsn: str) -> None:
    async with PostgresLeadership(dsn).lead("duty"):
        await execute(dsn, CUT)
        await asyncio.Event().wait()


async def test_the_lead_is_lost_with_the_connection(postgres_dsn: str) -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(UnavailableError, match="lost"):
            await _lead_while_cut(postgres_dsn)
    async with asyncio.timeout(WAIT_S), PostgresLeadership(postgres_dsn).lead("duty"):
        pass


async def test_a_leader_that_is_cancelled_is_cancelled(postgres_dsn: str) -> None:
    leading = asyncio.Event()

    async def lead() -> None:
        async with PostgresLeadership(postgres_dsn).lead("duty"):
            leading.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(lead())
    await leading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
