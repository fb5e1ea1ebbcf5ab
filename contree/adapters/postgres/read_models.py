"""The tables of the read models: made in a schema of their own, and recognised by a fingerprint.

A schema holds the tables of one set of projections; when a release changes them there is no
migration, only a rebuild. The fingerprint is the name of an empty table among them, which every
append mentions (`guard_of`): once the read models of another release are in place, a process that
does not know them can append no more, and so leaves nothing out of them. Nothing here reads or
writes the rows of read models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import asyncpg

from contree.adapters.postgres.failures import FINGERPRINT_PREFIX
from contree.adapters.postgres.pool import APP_ROLE, READ_SCHEMA
from contree.app.projection import Projection

FINGERPRINT_HEX = 16


def fingerprint_of(projections: Sequence[Projection]) -> str:
    """Tell two sets of read-model tables apart (hex)."""
    text = "\0".join(p.ddl for p in projections)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_table(projections: Sequence[Projection]) -> str:
    """The name of the table that stands in a schema with the tables of `projections`."""
    return FINGERPRINT_PREFIX + fingerprint_of(projections)[:FINGERPRINT_HEX]


def guard_of(projections: Sequence[Projection]) -> str:
    """A query that fails unless the live read models are those of `projections`.

    As a WITH query that nothing refers to it is never run, only analysed: it costs the look at the
    table's name, and holds off a swap of the read models until the end of the transaction.
    """
    return f"SELECT FROM {READ_SCHEMA}.{fingerprint_table(projections)}"


async def make_read_models(
    connection: asyncpg.Connection, projections: Sequence[Projection], *, schema: str
) -> None:
    """Make the empty tables of `projections` in a new `schema`, for the service to use."""
    await connection.execute(f"CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}, public")
    for projection in projections:
        await connection.execute(projection.ddl)
    await connection.execute(
        f"CREATE TABLE {fingerprint_table(projections)} ();"
        f"GRANT USAGE ON SCHEMA {schema} TO {APP_ROLE};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {APP_ROLE}"
    )


async def read_models_match(
    connection: asyncpg.Connection, projections: Sequence[Projection]
) -> bool:
    """Whether the live tables are those of `projections`; with an empty log they are made so."""
    found = await connection.fetchval(
        "SELECT to_regclass($1)::text", f"{READ_SCHEMA}.{fingerprint_table(projections)}"
    )
    if found is not None:
        return True
    if await connection.fetchval("SELECT EXISTS (SELECT FROM public.stored_events)"):
        return False
    async with connection.transaction():
        await connection.execute(f"DROP SCHEMA IF EXISTS {READ_SCHEMA} CASCADE")
        await make_read_models(connection, projections, schema=READ_SCHEMA)
    return True
