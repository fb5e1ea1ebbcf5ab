"""Moments in which one process at a time is at something outside the database."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from contree.adapters.postgres import moments
from contree.adapters.postgres.moments import PostgresMoments
from contree.domain.errors import UnavailableError

pytestmark = pytest.mark.postgres

NAME = "space/name"


async def test_one_at_a_time_whichever_process_it_is_of(postgres_pool: asyncpg.Pool) -> None:
    one, two = PostgresMoments(postgres_pool), PostgresMoments(postgres_pool)
    order: list[str] = []

    async def late() -> None:
        async with two.alone(NAME):
            order.append("two")

    async with one.alone(NAME):
        coming = asyncio.create_task(late())
        async with two.alone("another name"):
            order.append("another")
        await waited_for(postgres_pool)
        order.append("one")
    await coming
    assert order == ["another", "one", "two"]


async def waited_for(pool: asyncpg.Pool) -> None:
    """Return once somebody waits for an advisory lock."""
    async with asyncio.timeout(20):
        while not await pool.fetchval(  # noqa: ASYNC110 - the database tells nobody
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        ):
            await asyncio.sleep(0.01)


async def test_an_error_ends_it_and_comes_out_as_it_is(postgres_pool: asyncpg.Pool) -> None:
    alone = PostgresMoments(postgres_pool).alone
    for _ in range(2):
        with pytest.raises(UnavailableError, match="the store"):
            async with alone(NAME):
                raise UnavailableError("the store is away")


async def test_a_moment_that_is_none_ends_before_its_lock_does(
    postgres_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "MOMENT_S", 0.0)
    alone = PostgresMoments(postgres_pool).alone
    with pytest.raises(UnavailableError, match=f"'{NAME}' took over"):
        async with alone(NAME):
            await asyncio.Event().wait()
    monkeypatch.undo()
    async with alone(NAME):
        pass


async def test_few_connections_are_used_however_many_ask(postgres_pool: asyncpg.Pool) -> None:
    alone, inside, most = PostgresMoments(postgres_pool).alone, 0, 0

    async def ask(name: str) -> None:
        nonlocal inside, most
        async with alone(name):
            inside += 1
            most = max(most, inside)
            await postgres_pool.fetchval("SELECT 1")
            inside -= 1

    await asyncio.gather(*(ask(str(number)) for number in range(30)))
    assert most <= moments.AT_ONCE
