"""Reads the log as an auditor would: the table itself, by `contreed dsn`."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson

from tests.support.server import RunningServer

PREFIX = "contree.operation."


async def history(server: RunningServer, operation_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what happened to an operation, in order: (what, payload), topics without prefix."""
    rows = await query(
        server,
        "SELECT topic, state FROM public.stored_events "
        "WHERE originator_id = $1 ORDER BY originator_version",
        operation_id,
    )
    return [(str(row[0]).removeprefix(PREFIX), orjson.loads(row[1])) for row in rows]


def steps(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [what for what, _ in told]


async def query(server: RunningServer, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.dsn())
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()
