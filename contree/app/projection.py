"""What a read model is: tables that can be dropped and folded again from the log at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contree.domain.aggregate import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One write to one row of a read model.

    statement  one INSERT, UPDATE or DELETE with `$1`.. placeholders, no RETURNING
    arguments  its values, in placeholder order
    row        (table, key): two changes of one row are never put into one SQL statement
    reads      another row that the statement reads, if any. It is written once and never changed;
               the statement runs after the one that writes it
    """

    statement: str
    arguments: tuple[Any, ...]
    row: tuple[str, object]
    reads: tuple[str, object] | None = None


class Projection(Protocol):
    """One read model.

    tables  its table names, without schema; nothing else writes them
    ddl     CREATE TABLE / INDEX statements, idempotent (`IF NOT EXISTS`)
    """

    tables: tuple[str, ...]
    ddl: str

    def apply(self, event: Event) -> Sequence[Change]:
        """Return what `event` changes. Pure: same event, same changes; unknown events, none."""
        ...


class Database(Protocol):
    """The read side's access to SQL; asyncpg's pool has this shape. Rows act as mappings."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]: ...

    async def fetchrow(self, statement: str, *arguments: Any) -> Mapping[str, Any] | None: ...
