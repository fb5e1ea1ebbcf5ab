"""How many guests were started of late, straight from the log, from its end backwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from contree.app.projection import Database

POSITIONS_AT_ONCE: Final = 20_000
"""What one statement looks through: well below its timeout, however large the log is."""

END = "SELECT max(notification_id) AS position FROM public.stored_events"
STARTED = """
SELECT state FROM public.stored_events
WHERE notification_id > $1 AND notification_id <= $2
    AND topic = 'contree.operation.started' AND recorded_at > $3
"""
LATEST = (
    "SELECT recorded_at FROM public.stored_events WHERE notification_id <= $1 "
    "ORDER BY notification_id DESC LIMIT 1"
)

Decode = Callable[[bytes], Mapping[str, Any]]


class SqlGuestStarts:
    """Counts guests by the facts of `contree.operation.started`, which `decode` reads.

    PostgreSQL does not: it refuses a NUL in any of them.
    """

    def __init__(self, database: Database, *, decode: Decode) -> None:
        self._database = database
        self._decode = decode

    async def since(self, moment: datetime) -> Counter[tuple[str, str]]:
        """Return how many were started after `moment`, by origin and accelerator."""
        found: Counter[tuple[str, str]] = Counter()
        row = await self._database.fetchrow(END)
        until = 0 if row is None else row["position"] or 0
        while until > 0:
            after = until - POSITIONS_AT_ONCE
            for event in await self._database.fetch(STARTED, after, until, moment):
                facts = self._decode(event["state"])["facts"]
                if "origin" in facts:  # an import has no guest
                    found[facts["origin"], facts["accelerator"]] += 1
            before = await self._database.fetchrow(LATEST, after)
            if before is None or before["recorded_at"] <= moment:
                break
            until = after
        return found
