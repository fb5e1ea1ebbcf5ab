"""When a run's image was committed: from the exit of its command to the event that makes it so."""

from __future__ import annotations

from uuid import UUID

from contree.bootstrap import Core

COMMITTED = """
SELECT recorded_at FROM public.stored_events
WHERE originator_id = $1 AND topic = 'contree.operation.succeeded'
"""


async def commit_window(core: Core, operation: UUID) -> tuple[float, float]:
    """Return when the command exited and when success was recorded, Unix s on the host's clock."""
    journal = await core.journal.read(operation)
    exited = next(n.entry.at for n in journal if n.entry.type == "exit")
    row = await core.database.fetchrow(COMMITTED, operation)
    assert row is not None
    return exited.timestamp(), row["recorded_at"].timestamp()
