"""A real PostgreSQL for tests: one embedded server a run, one fresh database a test.

`import *` nothing: conftest.py imports the fixtures by name. Databases are copies of a migrated
template, made in some hundredths of a second, dropped afterwards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.postgres.audit_schema import IndexTables
from contree.adapters.postgres.embedded import EmbeddedPostgres
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import PostgresDatabase, open_pool
from contree.projections import ALL, audit_index

TEMPLATE = "contree_template"
AUDIT_TABLES = IndexTables(
    schema=audit_index.SCHEMA, ddl=audit_index.DDL, version=audit_index.VERSION
)
_numbers = itertools.count(1)


def dsn_for(dsn: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


async def execute(dsn: str, *statements: str) -> None:
    """Run statements as the owner, each by itself."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The DSN of the run's server, with a migrated template database on it."""
    data_dir: Path = tmp_path_factory.mktemp("pg")
    # Nothing here survives a power cut, or has to.
    server = EmbeddedPostgres(data_dir, settings={"fsync": "off", "full_page_writes": "off"})
    await server.start()
    try:
        await execute(server.dsn, f"CREATE DATABASE {TEMPLATE}")
        await migrate(dsn_for(server.dsn, TEMPLATE), projections=ALL, index=AUDIT_TABLES)
        yield server.dsn
    finally:
        await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def empty_postgres_dsn(postgres_server: str) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it."""
    name = f"test_{next(_numbers)}"
    await execute(postgres_server, f"CREATE DATABASE {name}")
    yield dsn_for(postgres_server, name)
    await execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="session")
async def postgres_dsn(postgres_server: str) -> AsyncIterator[str]:
    """The DSN (the owner's) of a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    await execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield dsn_for(postgres_server, name)
    await execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="session")
async def postgres_pool(postgres_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    """The service's pool on a fresh, migrated database."""
    pool = await open_pool(postgres_dsn)
    yield pool
    await pool.close()


@pytest_asyncio.fixture(loop_scope="session")
async def listener(postgres_dsn: str) -> AsyncIterator[PostgresListener]:
    """Hears what a fresh, migrated database notifies of."""
    made = PostgresListener(postgres_dsn)
    yield made
    await made.aclose()


@pytest.fixture
def database(postgres_pool: asyncpg.Pool) -> PostgresDatabase:
    """The read side's access to a fresh, migrated database."""
    return PostgresDatabase(postgres_pool)


async def rows_read(pool: asyncpg.Pool, statement: str, *arguments: object) -> int:
    """Run `statement` and count the rows that were read of tables for it, filtered ones too."""
    async with pool.acquire() as connection:
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)

    def read(node: dict[str, Any]) -> int:
        count = 0
        if "Relation Name" in node:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            count = round(rows * node["Actual Loops"])
        return count + sum(read(child) for child in node.get("Plans", ()))

    return read(json.loads(text)[0]["Plan"])
