"""The schema of the audit index: made by its owner, recognised by a fingerprint, made anew at will.

A release that changes the tables or the fold needs no migration: the schema is replaced by an empty
one, and the duty that follows the log fills it from position 0. Nothing here reads or writes rows
of the index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.pool import APP_ROLE, connect_as_owner
from contree.app.audit.audit_index import NEVER

FOLLOWER = (
    "CREATE TABLE follower (fingerprint text NOT NULL, position bigint NOT NULL, "
    "log_time timestamptz NOT NULL, latest_at timestamptz NOT NULL);"
    "CREATE UNIQUE INDEX follower_only_one_idx ON follower ((true));"
)
"""How far the index has come: its one row changes in the transactions that add rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTables:
    """Tables that follow the log, as contree.projections describes them.

    ddl       CREATE statements, names without schema
    version   of the fold that fills them
    """

    schema: str
    ddl: str
    version: int

    @property
    def fingerprint(self) -> str:
        """Tells two releases' tables and folds apart (hex)."""
        text = f"{self.version}\0{FOLLOWER}\0{self.ddl}"
        return hashlib.sha256(text.encode()).hexdigest()


async def ensure_index(connection: asyncpg.Connection, tables: IndexTables) -> bool:
    """Make the schema unless it is this release's already; say whether it was made."""
    follower = f"{tables.schema}.follower"
    if await connection.fetchval("SELECT to_regclass($1)::text", follower) is not None:
        found = await connection.fetchval(f"SELECT fingerprint FROM {follower}")  # noqa: S608 - ours
        if found == tables.fingerprint:
            return False
    await make_index(connection, tables)
    return True


async def reset_index(dsn: str, tables: IndexTables) -> None:
    """Empty the index, as owner; it is folded again from the log. Raises UnavailableError."""
    connection = await connect_as_owner(dsn)
    try:
        with translated():
            await make_index(connection, tables)
    finally:
        await connection.close()


async def make_index(connection: asyncpg.Connection, tables: IndexTables) -> None:
    """Make the schema, empty, in place of one that is there."""
    schema = tables.schema
    async with connection.transaction():
        await connection.execute(
            f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema};"
            f"SET LOCAL search_path = {schema}; {FOLLOWER} {tables.ddl}"
        )
        await connection.execute(
            f"INSERT INTO {schema}.follower VALUES ($1, 0, $2, $2)",  # noqa: S608 - ours
            tables.fingerprint,
            NEVER,
        )
        await connection.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {APP_ROLE};"
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {APP_ROLE}"
        )
