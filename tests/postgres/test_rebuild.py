"""Rebuilds of read models: random histories appended by the real log, folded again beside it."""

from __future__ import annotations

import asyncio
import itertools
import random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.rebuild import compare, rebuild
from contree.domain.errors import UnavailableError
from contree.projections import ALL
from tests.support.histories import History
from tests.support.postgres import execute

pytestmark = pytest.mark.postgres

SPACES = itertools.count(1000)


async def play(pool: asyncpg.Pool, history: History, *, steps: int) -> None:
    log = PostgresEventLog(pool, ALL)
    for touched in history.steps(steps):
        await log.append(*touched)


async def contents(dsn: str) -> dict[str, list[str]]:
    """Every row of every read model, as text."""
    connection = await asyncpg.connect(dsn)
    try:
        return {
            table: sorted(
                row["text"]
                for row in await connection.fetch(f'SELECT t::text AS text FROM "read".{table} t')
            )
            for projection in ALL
            for table in projection.tables
        }
    finally:
        await connection.close()


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(choices=st.randoms(use_true_random=False), steps=st.integers(1, 60))
async def test_live_and_rebuilt_tables_are_equal_after_any_history(
    postgres_dsn: str, postgres_pool: asyncpg.Pool, choices: random.Random, steps: int
) -> None:
    """One log grows over all examples, each in a space of its own."""
    await play(postgres_pool, History(choices, space=next(SPACES)), steps=steps)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()
    before = await contents(postgres_dsn)
    await rebuild(postgres_dsn, projections=ALL)
    assert await contents(postgres_dsn) == before


async def test_a_rebuild_counts_what_it_folded_and_tells_its_progress(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    await play(postgres_pool, History(2), steps=50)
    told: list[int] = []
    rebuilt = await rebuild(postgres_dsn, projections=ALL, progress=told.append)
    count = await postgres_pool.fetchval("SELECT count(*) FROM stored_events")
    assert (rebuilt.event_count, told[-1]) == (count, count)


async def test_an_empty_log_rebuilds_to_empty_tables(postgres_dsn: str) -> None:
    assert (await rebuild(postgres_dsn, projections=ALL)).event_count == 0
    assert not any((await contents(postgres_dsn)).values())


@pytest.mark.parametrize(
    ("tampering", "table", "columns"),
    [
        ("UPDATE operations SET error = 'tampered'", "operations", ("error",)),
        ("UPDATE images SET size_bytes = size_bytes + 1", "images", ("size_bytes",)),
        ("DELETE FROM tokens", "tokens", None),
        ("INSERT INTO projects VALUES (gen_random_uuid(), 'ghost', now())", "projects", None),
        ("DROP TABLE tags", "tags", ()),
    ],
)
async def test_a_comparison_names_what_was_tampered_with(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    tampering: str,
    table: str,
    columns: tuple[str, ...] | None,
) -> None:
    await play(postgres_pool, History(3), steps=150)
    await execute(postgres_dsn, f'SET search_path = "read"; {tampering}')
    found = (await compare(postgres_dsn, projections=ALL)).differences
    assert {difference.table for difference in found} == {table}
    for difference in found:
        assert table in str(difference)
        if columns is not None:
            assert difference.columns == columns
        else:
            assert difference.live is None or difference.rebuilt is None
    await rebuild(postgres_dsn, projections=ALL)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_a_single_changed_row_is_named_by_its_key(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    await play(postgres_pool, History(4), steps=100)
    victim = await postgres_pool.fetchval("SELECT operation_id FROM operations LIMIT 1")
    await postgres_pool.execute(
        "UPDATE operations SET worker = 'nobody' WHERE operation_id = $1", victim
    )
    (difference,) = (await compare(postgres_dsn, projections=ALL)).differences
    assert difference.key == {"operation_id": str(victim)}
    assert str(difference) == f"operations (operation_id={victim}): differs in worker"


async def test_the_service_goes_on_while_its_read_models_are_replaced(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    """Writers append without an error during rebuilds, and the result misses none of it."""
    log = PostgresEventLog(postgres_pool, ALL)
    finished = asyncio.Event()
    appended = 0

    async def keep_writing(history: History) -> None:
        nonlocal appended
        await log.append(*history.aggregates.values())
        while not finished.is_set():
            await log.append(*history.step())
            appended += 1

    async def rebuild_often() -> None:
        for _ in range(6):
            await rebuild(postgres_dsn, projections=ALL)
            assert (await compare(postgres_dsn, projections=ALL)).differences == ()
        finished.set()

    await asyncio.gather(rebuild_often(), *(keep_writing(History(50 + n)) for n in range(4)))
    assert appended > 50
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_two_rebuilds_at_once_are_refused(postgres_dsn: str) -> None:
    results = await asyncio.gather(
        *(rebuild(postgres_dsn, projections=ALL) for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(result, UnavailableError) for result in results) == 1
