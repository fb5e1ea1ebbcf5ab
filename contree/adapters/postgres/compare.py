"""Compares one table in two schemas, row by row, in the database; names what differs.

It compares text: two rows are equal when PostgreSQL writes them equally, so it needs no knowledge
of columns and no equality of types (json has none).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

DIFFERENCES_MAX = 100
"""Differences reported of one table, by key; more say nothing more."""

ROW_COUNT = "its number of rows"

KEY_COLUMNS = (
    "SELECT a.attname FROM pg_index i JOIN pg_attribute a "
    "ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
    "WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY a.attnum"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One row that is not the same. `live` or `rebuilt` is None where the row is missing.

    key       values of the primary key by column
    columns   names of the columns that differ, sorted; all when a row is missing
    """

    table: str
    key: Mapping[str, Any]
    columns: tuple[str, ...]
    live: Mapping[str, Any] | None
    rebuilt: Mapping[str, Any] | None

    def __str__(self) -> str:
        """One line for an operator; no values, which may be long."""
        key = ", ".join(f"{name}={value}" for name, value in self.key.items())
        if self.live is None:
            what = "missing in the live table"
        elif self.rebuilt is None:
            what = "in the live table only"
        else:
            what = "differs in " + ", ".join(self.columns)
        return f"{self.table} ({key or 'the whole table'}): {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCompared:
    """`row_count` is the live table's; `differences` in the order of keys, the first ones only."""

    table: str
    row_count: int
    differences: Sequence[Difference]


async def compare_table(
    connection: asyncpg.Connection, table: str, *, live: str, rebuilt: str
) -> TableCompared:
    """Compare `live`.`table` with `rebuilt`.`table`. Names are ours, never from outside."""
    exists = await connection.fetchval("SELECT to_regclass($1)::text", f"{live}.{table}")
    if exists is None:
        missing = Difference(table=table, key={}, columns=(), live=None, rebuilt={})
        return TableCompared(table=table, row_count=0, differences=[missing])
    keys = [row["attname"] for row in await connection.fetch(KEY_COLUMNS, f"{rebuilt}.{table}")]
    found = await differing_rows(
        connection, table, keys, live=f"{live}.{table}", rebuilt=f"{rebuilt}.{table}"
    )
    counts = await connection.fetchrow(
        f"SELECT (SELECT count(*) FROM {live}.{table}) AS live, "  # noqa: S608 - names are ours
        f"(SELECT count(*) FROM {rebuilt}.{table}) AS rebuilt"
    )
    if not found and counts["live"] != counts["rebuilt"]:
        # Rows that stand there twice are each equal to their one counterpart.
        found = [Difference(table=table, key={}, columns=(ROW_COUNT,), live={}, rebuilt={})]
    return TableCompared(table=table, row_count=counts["live"], differences=found)


async def differing_rows(
    connection: asyncpg.Connection, table: str, keys: Sequence[str], *, live: str, rebuilt: str
) -> list[Difference]:
    """Return the rows, by `keys`, that differ between two items of a FROM, which are ours."""
    rows = await connection.fetch(
        "SELECT row_to_json(l)::text AS live, row_to_json(r)::text AS rebuilt "  # noqa: S608 - names are ours
        f"FROM {live} l FULL JOIN {rebuilt} r USING ({', '.join(keys)}) "
        f"WHERE l::text IS DISTINCT FROM r::text ORDER BY {', '.join(keys)} LIMIT {DIFFERENCES_MAX}"
    )
    return [_difference(table, keys, row["live"], row["rebuilt"]) for row in rows]


def _difference(
    table: str, keys: Sequence[str], live_text: str | None, rebuilt_text: str | None
) -> Difference:
    live: dict[str, Any] = json.loads(live_text or "{}")
    rebuilt: dict[str, Any] = json.loads(rebuilt_text or "{}")
    names = sorted(live.keys() | rebuilt.keys())
    return Difference(
        table=table,
        key={name: (live or rebuilt).get(name) for name in keys},
        columns=tuple(n for n in names if live.get(n, ...) != rebuilt.get(n, ...)),
        live=live or None,
        rebuilt=rebuilt or None,
    )
