"""How many guests were started of late, out of a real log, however few events one look takes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.domain.context import Context
from contree.domain.operation import Operation
from contree.projections import ALL, SqlGuestStarts, guest_starts
from tests.support.histories import a_spec

pytestmark = pytest.mark.postgres

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STARTED = [
    ("template", "tcg"), ("cold", "tcg"), None, ("warm", "kvm"), ("template", "kvm"), None,
    ("template", "tcg"), ("warm", "kvm"), ("cold", "tcg"), ("template", "tcg"),
]  # fmt: skip
"""Origin and accelerator of each start in the log's order; None for an import, which has none."""


def operation(number: int, start: tuple[str, str] | None) -> Operation:
    context = Context(actor="worker:w", project_id=UUID(int=1), request_id="r", at=AT)
    if start is None:
        made = Operation.request_import(
            context, operation_id=UUID(int=number), registry_url="docker://r/i:1",
            username=None, tag=None, timeout_s=1,
        )  # fmt: skip
    else:
        spec = a_spec(UUID(int=2))
        made = Operation.request_instance(context, operation_id=UUID(int=number), spec=spec)
    made.assign(context, worker="w", lease_until=AT + timedelta(seconds=60))
    if start is None:
        made.start(context)
    else:
        made.start(context, origin=start[0], accelerator=start[1], kernel="6.1\0")
    return made


@pytest.mark.parametrize("at_once", [1, 3, 7, 100_000])
async def test_every_start_since_a_moment_is_counted_once(
    postgres_pool: asyncpg.Pool,
    database: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(guest_starts, "POSITIONS_AT_ONCE", at_once)
    starts = SqlGuestStarts(database, decode=OrjsonTranscoder().decode)
    assert await starts.since(AT) == {}
    log = PostgresEventLog(postgres_pool, ALL)
    for number, start in enumerate(STARTED, start=10):
        await log.append(operation(number, start))
    rows = await database.fetch(
        "SELECT recorded_at FROM public.stored_events "
        "WHERE topic = 'contree.operation.started' ORDER BY notification_id"
    )
    assert len(rows) == len(STARTED)
    for began in range(len(STARTED)):
        moment = rows[began]["recorded_at"]
        later = Counter(start for start in STARTED[began + 1 :] if start is not None)
        assert await starts.since(moment) == later
    before = rows[0]["recorded_at"] - timedelta(microseconds=1)
    assert (await starts.since(before)).total() == 8
