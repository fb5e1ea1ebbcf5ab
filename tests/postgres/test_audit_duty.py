"""The duty that keeps the audit index: cut off anywhere, done twice at once, begun again from 0.

Whatever happens to it, the index ends as one undisturbed fold of the log would have left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio

from contree.adapters.postgres.audit_index import PostgresAuditIndexer, PostgresAuditProgress
from contree.adapters.postgres.audit_schema import ensure_index, reset_index
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.pool import PostgresDatabase, open_pool
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.audit.audit_index import Mark
from contree.app.audit.audit_reads import AuditFilter, Span
from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import ConflictError, ContreeError, UnavailableError
from contree.projections import ALL, SqlAuditReads
from contree.projections.audit_index import fold_audit
from contree.worker import follow_log
from contree.worker.follow_log import FollowLog
from tests.fakes.audit import positions
from tests.support.histories import History
from tests.support.postgres import AUDIT_TABLES, execute

pytestmark = pytest.mark.postgres

WAIT_S = 20
TABLES = ("entries", "mentions", "images", "operations", "tag_moves", "follower")
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'contreed%'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one process has: connections of its own."""

    pool: asyncpg.Pool
    recorded: PostgresRecordedLog
    indexer: PostgresAuditIndexer
    progress: PostgresAuditProgress

    @property
    def duty(self) -> FollowLog:
        return FollowLog(recorded=self.recorded, index=self.indexer)


def indexer_on(pool: asyncpg.Pool, fingerprint: str) -> PostgresAuditIndexer:
    decode = OrjsonTranscoder().decode
    return PostgresAuditIndexer(pool, fold=fold_audit, decode=decode, fingerprint=fingerprint)


@pytest_asyncio.fixture(loop_scope="session")
async def sides(postgres_dsn: str) -> AsyncIterator[list[Side]]:
    pools = [await open_pool(postgres_dsn) for _ in range(2)]
    listeners = [PostgresListener(postgres_dsn) for _ in range(2)]
    yield [
        Side(
            pool=pool,
            recorded=PostgresRecordedLog(pool, listener),
            indexer=indexer_on(pool, AUDIT_TABLES.fingerprint),
            progress=PostgresAuditProgress(pool, listener),
        )
        for pool, listener in zip(pools, listeners, strict=True)
    ]
    for listener in listeners:
        await listener.aclose()
    for pool in pools:
        pool.terminate()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_log, "BATCH_EVENTS", 7)


async def play(side: Side, seed: int, steps: int) -> int:
    """Append a history; return the log's head."""
    log, history = PostgresEventLog(side.pool, ALL), History(seed)
    await log.append(*history.aggregates.values())
    for _ in range(steps):
        await log.append(*history.step())
    return await side.recorded.head()


async def contents(dsn: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {
            table: sorted(
                row["text"]
                for row in await connection.fetch(f"SELECT t::text AS text FROM audit.{table} t")
            )
            for table in TABLES
        }
    finally:
        await connection.close()


async def run_until(side: Side, head: int) -> None:
    """Do the duty until the index has reached `head`."""
    duty = asyncio.create_task(side.duty.run())
    mark = await side.progress.reached(head, within_s=WAIT_S)
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)
    assert mark.position >= head


async def keep_doing(duty: FollowLog) -> None:
    """As worker.duties does: begun again when it cannot go on."""
    while True:
        with contextlib.suppress(ContreeError):
            await duty.run()


async def want_an_undisturbed_fold(dsn: str, side: Side) -> None:
    """The index is what one fold of the whole log, in one batch, makes of it."""
    found = await contents(dsn)
    assert found["entries"]
    await reset_index(dsn, AUDIT_TABLES)
    whole = await side.recorded.read(after=0, limit=100_000)
    await side.indexer.add(await side.indexer.begin(), whole)
    assert await contents(dsn) == found


async def test_cut_off_at_any_point_it_leaves_whole_batches(
    postgres_dsn: str, sides: list[Side]
) -> None:
    writer, follower = sides
    choose, head = random.Random(1), await play(writer, 71, 150)
    while True:
        duty = asyncio.create_task(follower.duty.run())
        for _ in range(choose.randrange(1, 60)):
            await asyncio.sleep(0)  # a step of the loop: cancelled somewhere in a batch
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        mark = await follower.progress.reached(0, within_s=0)
        found = await writer.pool.fetchval("SELECT max(position) FROM audit.entries")
        assert mark.position == (found or 0)
        if mark.position >= head:
            break
    await want_an_undisturbed_fold(postgres_dsn, writer)


async def test_connections_that_are_cut_cost_nothing_but_time(
    postgres_dsn: str, sides: list[Side]
) -> None:
    writer, follower = sides
    head = await play(writer, 72, 100)

    duty = asyncio.create_task(keep_doing(follower.duty))
    for position in range(head // 10, head, head // 10):
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    mark = await follower.progress.reached(position, within_s=WAIT_S)
                except UnavailableError:
                    continue
                assert mark.position >= position
                break
        await execute(postgres_dsn, CUT)
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                mark = await writer.progress.reached(head, within_s=WAIT_S)
            except UnavailableError:
                continue
            break
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)
    assert mark.position == head
    await want_an_undisturbed_fold(postgres_dsn, writer)


async def test_two_at_once_double_nothing(postgres_dsn: str, sides: list[Side]) -> None:
    duties = [asyncio.create_task(side.duty.run()) for side in sides]
    head = await play(sides[0], 73, 150)
    assert (await sides[1].progress.reached(head, within_s=WAIT_S)).position == head
    assert not any(duty.done() for duty in duties)
    for duty in duties:
        duty.cancel()
    await asyncio.gather(*duties, return_exceptions=True)
    await want_an_undisturbed_fold(postgres_dsn, sides[0])


async def test_who_comes_second_with_the_same_batch_adds_nothing(sides: list[Side]) -> None:
    first, second = sides
    await play(first, 74, 10)
    events = await first.recorded.read(after=0)
    marks = [await side.indexer.begin() for side in sides]
    await first.indexer.add(marks[0], events)
    with pytest.raises(ConflictError):
        await second.indexer.add(marks[1], events)
    count = await first.pool.fetchval("SELECT count(*) FROM audit.entries")
    assert count == len(events)


@pytest.mark.parametrize("quiet", [True, False])
async def test_an_index_that_is_emptied_is_folded_again_by_itself(
    postgres_dsn: str, sides: list[Side], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    """Also where nothing is recorded any more that would wake who follows the log."""
    monkeypatch.setattr(follow_log, "LOOK_AGAIN_S", 0.01 if quiet else WAIT_S)
    writer, follower = sides
    duty = asyncio.create_task(keep_doing(follower.duty))
    head = await play(writer, 75, 50)
    await follower.progress.reached(head, within_s=WAIT_S)
    await reset_index(postgres_dsn, AUDIT_TABLES)
    if not quiet:
        head = await play(writer, 76, 5)
    assert (await follower.progress.reached(head, within_s=WAIT_S)).position == head
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)
    await want_an_undisturbed_fold(postgres_dsn, writer)


async def test_another_release_makes_it_anew_and_the_old_one_stops(
    postgres_dsn: str, sides: list[Side]
) -> None:
    old, new = sides
    head = await play(old, 77, 30)
    mark = await old.indexer.begin()
    events = await old.recorded.read(after=0)
    later = replace(AUDIT_TABLES, version=AUDIT_TABLES.version + 1)
    owner = await asyncpg.connect(postgres_dsn)
    assert not await ensure_index(owner, AUDIT_TABLES)
    assert await ensure_index(owner, later)
    assert not await ensure_index(owner, later)
    await owner.close()
    with pytest.raises(ConflictError):
        await old.indexer.add(mark, events)
    with pytest.raises(UnavailableError, match="another release"):
        await old.indexer.begin()
    indexer = indexer_on(new.pool, later.fingerprint)
    duty = asyncio.create_task(FollowLog(recorded=new.recorded, index=indexer).run())
    assert (await new.progress.reached(head, within_s=WAIT_S)).position == head
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)


async def test_without_its_tables_it_is_not_available(postgres_dsn: str, sides: list[Side]) -> None:
    await execute(postgres_dsn, "DROP SCHEMA audit CASCADE")
    with pytest.raises(UnavailableError):
        await sides[0].indexer.begin()
    with pytest.raises(UnavailableError):
        await sides[0].progress.reached(1, within_s=WAIT_S)


def timed(events: Sequence[RecordedEvent], *seconds: int) -> list[RecordedEvent]:
    """The events, recorded so many seconds after the first one."""
    began = events[0].recorded_at
    return [
        replace(event, recorded_at=began + timedelta(seconds=second))
        for event, second in zip(events, seconds, strict=False)
    ]


async def test_times_lead_to_positions_also_when_the_clock_went_backwards(
    postgres_pool: asyncpg.Pool, sides: list[Side]
) -> None:
    """Back by 15 s between the third event and the fourth: the log's time stands still."""
    side = sides[0]
    await play(side, 78, 10)
    events = timed(await side.recorded.read(after=0), 0, 10, 20, 5, 6, 30)
    await side.indexer.add(Mark(), events[:4])
    await side.indexer.add(await side.indexer.begin(), events[4:])
    reads = SqlAuditReads(PostgresDatabase(postgres_pool), decode=OrjsonTranscoder().decode)
    began = events[0].recorded_at

    async def at(second: int, *, inclusive: bool = True) -> int:
        return await reads.position_at(began + timedelta(seconds=second), inclusive=inclusive)

    assert [await at(second) for second in (-1, 0, 5, 10, 19, 20, 29, 30, 99)] == [
        *(0, 1, 1, 2, 2, 5, 5, 6, 6)
    ]
    assert await at(20, inclusive=False) == 2
    times = [await reads.time_of(position) for position in range(1, 7)]
    assert times == sorted(times)
    found = await reads.entries(AuditFilter(), Span(after=await at(5), until=await at(20)), limit=9)
    assert positions(found.entries) == [2, 3, 4, 5]
