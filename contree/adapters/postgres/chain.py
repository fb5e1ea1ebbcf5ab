"""Verifies the hash chain over the log: each row's hash covers the previous one and its own bytes.

It recomputes in Python what the trigger of migrations/001_event_log.sql computed in the database,
so that neither is trusted alone. It finds edits, insertions and removals inside the log. It cannot
see a cut-off tail, nor a chain that an owner has recomputed: `app.proof.verify` also does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.domain.log_row import chain_hash, row_bytes

BATCH_ROWS = 2000

ROWS = (
    "SELECT notification_id, originator_id, originator_version, recorded_at, topic, state, hash "
    "FROM public.stored_events WHERE notification_id > $1 ORDER BY notification_id LIMIT $2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What a verification found.

    event_count   rows that were read
    head          hash of the last good row, hex; empty for an empty log
    broken_at     id of the first row whose hash does not follow, None when all do
    """

    event_count: int
    head: str
    broken_at: int | None


async def verify_chain(connection: asyncpg.Connection | asyncpg.Pool) -> ChainReport:
    """Recompute the whole chain. Raises UnavailableError."""
    previous, last_id, count = b"", 0, 0
    while True:
        with translated():
            rows = await connection.fetch(ROWS, last_id, BATCH_ROWS)
        for row in rows:
            count += 1
            if hash_of(previous, row) != row["hash"]:
                return ChainReport(
                    event_count=count, head=previous.hex(), broken_at=row["notification_id"]
                )
            previous, last_id = row["hash"], row["notification_id"]
        if not rows:
            return ChainReport(event_count=count, head=previous.hex(), broken_at=None)


def hash_of(previous: bytes, row: Mapping[str, Any]) -> bytes:
    """The hash that `row` must have after a row whose hash is `previous`."""
    return chain_hash(
        previous,
        row_bytes(
            position=row["notification_id"],
            aggregate_id=row["originator_id"],
            version=row["originator_version"],
            recorded_at=row["recorded_at"],
            topic=row["topic"],
            state=row["state"],
        ),
    )
