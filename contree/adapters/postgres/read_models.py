"""The tables of the read models: made in a schema of their own, and recognised by a fingerprint.

A schema holds the tables of one set of projections; when a release changes them there is no
migration, only a rebuild. Nothing here reads or writes their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import asyncpg

from contree.adapters.postgres.pool import APP_ROLE, READ_SCHEMA
from contree.app.projection import Projection

FINGERPRINT_TABLE = "projection_fingerprint"


def fingerprint_of(projections: Sequence[Projection]) -> str:
    """Tell two sets of read-model tables apart (hex)."""
    text = "\0".join(p.ddl for p in projections)
    return hashlib.sha256(text.encode()).hexdigest()


async def make_read_models(
    connection: asyncpg.Connection, projections: Sequence[Projection], *, schema: str
) -> None:
    """Make the empty tables of `projections` in a new `schema`, for the service to use."""
    await connection.execute(f"CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}, public")
    for projection in projections:
        await connection.execute(projection.ddl)
    await connection.execute(
        f"CREATE TABLE {FINGERPRINT_TABLE} (fingerprint text NOT NULL);"
        f"GRANT USAGE ON SCHEMA {schema} TO {APP_ROLE};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {APP_ROLE}"
    )
    await connection.execute(
        f"INSERT INTO {FINGERPRINT_TABLE} VALUES ($1)",  # noqa: S608 - a constant
        fingerprint_of(projections),
    )


async def read_models_match(
    connection: asyncpg.Connection, projections: Sequence[Projection]
) -> bool:
    """Whether the live tables are those of `projections`; with an empty log they are made so."""
    exists = await connection.fetchval(
        "SELECT to_regclass($1)::text", f"{READ_SCHEMA}.{FINGERPRINT_TABLE}"
    )
    if exists is not None:
        found = await connection.fetchval(
            f"SELECT fingerprint FROM {READ_SCHEMA}.{FINGERPRINT_TABLE}"  # noqa: S608 - constants
        )
        return bool(found == fingerprint_of(projections))
    if await connection.fetchval("SELECT EXISTS (SELECT FROM public.stored_events)"):
        return False
    async with connection.transaction():
        await connection.execute(f"DROP SCHEMA IF EXISTS {READ_SCHEMA} CASCADE")
        await make_read_models(connection, projections, schema=READ_SCHEMA)
    return True
