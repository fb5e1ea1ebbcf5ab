"""Migrations: run on empty databases of the run's server, several at once, and compared by dump."""

from __future__ import annotations

import asyncio
import re
from importlib import resources
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from contree.adapters.postgres.embedded import OWNER, binaries
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.migrate import MigrationError, migrate, migration_files
from contree.adapters.postgres.pool import open_pool
from contree.adapters.postgres.read_models import fingerprint_table
from contree.adapters.postgres.rebuild import compare
from contree.projections import ALL
from tests.support.histories import History
from tests.support.postgres import execute

pytestmark = pytest.mark.postgres


async def dump(dsn: str) -> str:
    """The schema `public` as pg_dump writes it, without what differs from run to run."""
    parts = urlsplit(dsn)
    process = await asyncio.create_subprocess_exec(
        *(str(binaries() / "pg_dump"), "--schema-only", "--schema=public", "-U", OWNER),
        *("-h", parse_qs(parts.query)["host"][0], "-d", parts.path[1:]),
        "--exclude-table=schema_migrations",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return re.sub(r"^(--.*|\\(un)?restrict .*|\n)\n", "", output.decode(), flags=re.MULTILINE)


async def test_the_schema_file_is_what_the_migrations_arrive_at(
    empty_postgres_dsn: str, postgres_dsn: str
) -> None:
    schema = resources.files("contree.adapters.postgres") / "schema.sql"
    await execute(empty_postgres_dsn, schema.read_text())
    assert await dump(empty_postgres_dsn) == await dump(postgres_dsn)


async def test_migrating_twice_changes_nothing(empty_postgres_dsn: str) -> None:
    assert await migrate(empty_postgres_dsn, projections=ALL) is False
    before = await dump(empty_postgres_dsn)
    assert await migrate(empty_postgres_dsn, projections=ALL) is False
    assert await dump(empty_postgres_dsn) == before


async def test_the_queue_of_a_database_that_had_none_is_made_of_its_read_models(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    log, history = PostgresEventLog(postgres_pool, ALL), History(9)
    for touched in history.steps(150):
        await log.append(*touched)
    [leased] = await postgres_pool.fetch("SELECT * FROM queue WHERE worker IS NOT NULL LIMIT 1")
    await execute(
        postgres_dsn,
        "CREATE TABLE leases AS SELECT operation_id, worker, until FROM queue "
        f"WHERE operation_id = '{leased['operation_id']}'",
        "DROP TABLE queue, queue_turns",
        "DROP FUNCTION queue_take, queue_notify",
        "DELETE FROM schema_migrations WHERE version = 9",
    )
    await migrate(postgres_dsn, projections=ALL)
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()
    rows = await postgres_pool.fetch(
        "SELECT * FROM queue WHERE operation_id = $1", leased["operation_id"]
    )
    assert rows == [leased]


async def test_processes_that_start_at_once_migrate_once(empty_postgres_dsn: str) -> None:
    await asyncio.gather(*(migrate(empty_postgres_dsn, projections=ALL) for _ in range(5)))
    connection = await asyncpg.connect(empty_postgres_dsn)
    applied = await connection.fetch("SELECT version FROM schema_migrations ORDER BY version")
    await connection.close()
    assert [row["version"] for row in applied] == list(migration_files())


async def test_an_edited_migration_is_refused(postgres_dsn: str) -> None:
    await execute(postgres_dsn, "UPDATE schema_migrations SET sha256 = 'x' WHERE version = 2")
    with pytest.raises(MigrationError, match="migration 2 differs"):
        await migrate(postgres_dsn, projections=ALL)


async def test_a_database_of_a_newer_release_is_refused(postgres_dsn: str) -> None:
    await execute(postgres_dsn, "INSERT INTO schema_migrations VALUES (999, 'x')")
    with pytest.raises(MigrationError, match="999"):
        await migrate(postgres_dsn, projections=ALL)


async def test_read_models_of_another_release_are_rebuilt_once(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    for touched in History(4).steps(40):
        await PostgresEventLog(postgres_pool, ALL).append(*touched)
    await execute(
        postgres_dsn,
        f'ALTER TABLE "read".{fingerprint_table(ALL)} RENAME TO fingerprint_of_old',
        'ALTER TABLE "read".operations DROP COLUMN outcome',
    )
    at_once = [migrate(postgres_dsn, projections=ALL) for _ in range(3)]
    assert sorted(await asyncio.gather(*at_once)) == [False, False, True]
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_dropped_read_models_are_folded_again(
    postgres_dsn: str,
) -> None:
    pool = await open_pool(postgres_dsn)
    for touched in History(1).steps(3):
        await PostgresEventLog(pool, ALL).append(*touched)
    await pool.close()
    await execute(postgres_dsn, 'DROP SCHEMA "read" CASCADE')
    assert await migrate(postgres_dsn, projections=ALL) is True
    assert (await compare(postgres_dsn, projections=ALL)).differences == ()


async def test_a_user_who_may_not_make_the_role_is_told_what_to_do(
    empty_postgres_dsn: str,
) -> None:
    name = urlsplit(empty_postgres_dsn).path[1:]
    poor = f"poor_{name}"
    await execute(
        empty_postgres_dsn,
        f"CREATE ROLE {poor} LOGIN",
        f"ALTER DATABASE {name} OWNER TO {poor}",
    )
    dsn = empty_postgres_dsn.replace(OWNER, poor)
    with pytest.raises(MigrationError, match="CREATE ROLE contree_app"):
        await migrate(dsn, projections=ALL)
    await execute(empty_postgres_dsn, f"GRANT contree_app TO {poor}")
    assert await migrate(dsn, projections=ALL) is False
    pool = await open_pool(dsn)
    for touched in History(2).steps(20):
        await PostgresEventLog(pool, ALL).append(*touched)
    await pool.close()
    await execute(
        empty_postgres_dsn,
        f"REASSIGN OWNED BY {poor} TO {OWNER}",
        f"DROP OWNED BY {poor}",
        f"DROP ROLE {poor}",
    )
