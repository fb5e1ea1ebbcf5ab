"""The log defends itself: attempts to change it, as the service, as the owner, on real tables."""

from __future__ import annotations

import asyncpg
import pytest

from contree.adapters.postgres.chain import verify_chain
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.projections import ALL
from tests.support.histories import History

pytestmark = pytest.mark.postgres

APPEND = (
    "INSERT INTO stored_events (originator_id, originator_version, topic, state) "
    "VALUES (gen_random_uuid(), 1, 'test', 'x')"
)
CHANGES = (
    "UPDATE stored_events SET state = 'y'",
    "DELETE FROM stored_events",
    "TRUNCATE stored_events",
)


@pytest.fixture
async def owner(postgres_dsn: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute(APPEND)
    await connection.execute(APPEND)
    yield connection
    await connection.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_the_superuser_is_refused(owner: asyncpg.Connection, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(change)


@pytest.mark.parametrize("change", CHANGES)
async def test_the_superuser_is_refused_when_acting_as_a_replica(
    owner: asyncpg.Connection, change: str
) -> None:
    await owner.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(change)


@pytest.mark.parametrize(
    "statement",
    [
        *CHANGES,
        "ALTER TABLE stored_events DISABLE TRIGGER ALL",
        "DROP TABLE stored_events",
        (
            "INSERT INTO stored_events "
            "(originator_id, originator_version, topic, state, recorded_at) "
            "VALUES (gen_random_uuid(), 1, 'test', 'x', now())"
        ),
        (
            "INSERT INTO stored_events (originator_id, originator_version, topic, state, "
            "notification_id) OVERRIDING SYSTEM VALUE VALUES (gen_random_uuid(), 1, 't', 'x', 7)"
        ),
        "SET session_replication_role = replica",
        "CREATE TABLE public.mine (x int)",
        "UPDATE schema_migrations SET sha256 = ''",
    ],
)
async def test_the_services_role_has_no_right_to_it(
    postgres_pool: asyncpg.Pool, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await postgres_pool.execute(statement)


async def test_resetting_the_role_does_not_help(postgres_pool: asyncpg.Pool) -> None:
    async with postgres_pool.acquire() as connection:
        await connection.execute("RESET ROLE; RESET ALL")
        assert await connection.fetchval("SELECT current_user") == "contree_app"


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_an_append_with_an_old_snapshot_is_refused(
    postgres_pool: asyncpg.Pool, isolation: str
) -> None:
    """It would read a stale end of the chain and fork it."""
    async with postgres_pool.acquire() as connection:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with connection.transaction(isolation=isolation):
                await connection.execute(APPEND)


async def test_an_id_before_the_end_is_refused(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="not beyond"):
        await owner.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state, "
            "notification_id) OVERRIDING SYSTEM VALUE VALUES (gen_random_uuid(), 1, 't', 'x', 0)"
        )


async def test_the_chain_of_a_history_verifies(postgres_pool: asyncpg.Pool) -> None:
    history = History(21)
    for touched in history.steps(200):
        await PostgresEventLog(postgres_pool, ALL).append(*touched)
    report = await verify_chain(postgres_pool)
    assert report.broken_at is None
    assert report.event_count == await postgres_pool.fetchval("SELECT count(*) FROM stored_events")


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE stored_events SET state = state || 'x' WHERE notification_id = 2",
        "UPDATE stored_events SET topic = 'other' WHERE notification_id = 2",
        (
            "UPDATE stored_events SET recorded_at = recorded_at + interval '1 microsecond' "
            "WHERE notification_id = 2"
        ),
        "UPDATE stored_events SET originator_version = 5 WHERE notification_id = 2",
        "UPDATE stored_events SET hash = sha256('x') WHERE notification_id = 2",
    ],
)
async def test_an_owners_edit_behind_the_triggers_is_found_at_the_row(
    owner: asyncpg.Connection, forgery: str
) -> None:
    await owner.execute(APPEND)
    assert (await verify_chain(owner)).broken_at is None
    await owner.execute("ALTER TABLE stored_events DISABLE TRIGGER z_no_change")
    await owner.execute(forgery)
    assert (await verify_chain(owner)).broken_at == 2


async def test_a_row_removed_inside_the_log_is_found(owner: asyncpg.Connection) -> None:
    await owner.execute(APPEND)
    await owner.execute("ALTER TABLE stored_events DISABLE TRIGGER z_no_change")
    await owner.execute("DELETE FROM stored_events WHERE notification_id = 2")
    assert (await verify_chain(owner)).broken_at == 3
