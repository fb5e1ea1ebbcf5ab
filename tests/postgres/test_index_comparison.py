"""The audit index beside one folded anew: what was done to it is named, and lagging is no fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from contree import bootstrap
from contree.adapters.postgres import compare_index as comparing
from contree.adapters.postgres.audit_index import PostgresAuditIndexer
from contree.adapters.postgres.audit_schema import reset_index
from contree.adapters.postgres.compare_index import IndexCompared, compare_index
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.postgres.transcoder import OrjsonTranscoder
from contree.app.recorded_log import RecordedLog
from contree.bootstrap import DatabaseUrls
from contree.domain.errors import UnavailableError
from contree.projections import ALL
from contree.projections.audit_index import fold_audit
from tests.support.histories import History
from tests.support.postgres import AUDIT_TABLES, execute

pytestmark = pytest.mark.postgres

DECODE = OrjsonTranscoder().decode
STEPS = 150
GHOST = "SELECT project_id, 'ghost', 1, NULL, now() FROM audit.images LIMIT 1"
DOUBLED = "INSERT INTO audit.images SELECT * FROM audit.images"


@pytest.fixture
def indexer(postgres_pool: asyncpg.Pool) -> PostgresAuditIndexer:
    return PostgresAuditIndexer(
        postgres_pool, fold=fold_audit, decode=DECODE, fingerprint=AUDIT_TABLES.fingerprint
    )


@pytest_asyncio.fixture(loop_scope="session")
async def recorded(postgres_dsn: str, postgres_pool: asyncpg.Pool) -> AsyncIterator[RecordedLog]:
    listener = PostgresListener(postgres_dsn)
    yield PostgresRecordedLog(postgres_pool, listener)
    await listener.aclose()


async def play(pool: asyncpg.Pool, history: History, *, steps: int) -> None:
    log = PostgresEventLog(pool, ALL)
    for touched in history.steps(steps):
        await log.append(*touched)


async def follow(recorded: RecordedLog, indexer: PostgresAuditIndexer, *, leave: int = 0) -> int:
    """Bring the index to the end of the log but for `leave` events; return where it is."""
    mark = await indexer.begin()
    events = await recorded.read(after=mark.position, limit=100_000)
    return (await indexer.add(mark, events[: len(events) - leave])).position


async def compared(dsn: str) -> IndexCompared:
    return await compare_index(dsn, AUDIT_TABLES, fold=fold_audit, decode=DECODE)


async def test_an_index_that_followed_is_equal_and_what_was_compared_is_counted(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    recorded: RecordedLog,
    indexer: PostgresAuditIndexer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folded in batches of other sizes than the index was: ends meet their requests or do not."""
    monkeypatch.setattr(comparing, "BATCH_EVENTS", 7)
    await play(postgres_pool, History(61), steps=STEPS)
    position = await follow(recorded, indexer)
    found = await compared(postgres_dsn)
    assert (found.differences, found.position, found.head) == ((), position, position)
    for table, count in found.row_counts.items():
        assert count == await postgres_pool.fetchval(f"SELECT count(*) FROM audit.{table}") > 0
    assert await postgres_pool.fetchval("SELECT to_regnamespace('audit_rebuilt')") is None


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        (
            "UPDATE audit.entries SET actor = 'nobody' WHERE position IN (9, 40)",
            "audit.entries (position=9): differs in actor",
        ),
        (
            "DELETE FROM audit.entries WHERE position > 20",
            "audit.entries (position=21): missing in the live table",
        ),
        (
            "UPDATE audit.operations SET status = 'LOST', ended = requested + 1",
            "differs in ended, status",
        ),
        ("UPDATE audit.images SET parent_image_id = image_id", "differs in parent_image_id"),
        ("DELETE FROM audit.mentions", "missing in the live table"),
        (
            f"INSERT INTO audit.tag_moves {GHOST}",
            "name=ghost, position=1): in the live table only",
        ),
        ("DROP TABLE audit.tag_moves", "audit.tag_moves (the whole table): missing in the live"),
        (
            f"ALTER TABLE audit.images DROP CONSTRAINT images_pkey; {DOUBLED}",
            "audit.images (the whole table): differs in its number of rows",
        ),
        (
            "UPDATE audit.follower SET log_time = log_time + interval '1 day'",
            "audit.follower (the whole table): differs in log_time",
        ),
        (
            "UPDATE audit.follower SET position = position + 5",
            "audit.follower (the whole table): differs in position",
        ),
    ],
)
async def test_the_first_difference_is_named(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    recorded: RecordedLog,
    indexer: PostgresAuditIndexer,
    tampering: str,
    said: str,
) -> None:
    await play(postgres_pool, History(62), steps=STEPS)
    await follow(recorded, indexer)
    await execute(postgres_dsn, tampering)
    found = await compared(postgres_dsn)
    assert said in str(found.differences[0])


async def test_events_that_the_index_has_not_reached_are_no_difference(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    recorded: RecordedLog,
    indexer: PostgresAuditIndexer,
) -> None:
    await play(postgres_pool, History(63), steps=STEPS)
    position = await follow(recorded, indexer, leave=11)
    found = await compared(postgres_dsn)
    assert (found.differences, found.position) == ((), position)
    assert found.head == await recorded.head() > position
    urls = DatabaseUrls(app=postgres_dsn, owner=postgres_dsn)
    report = await bootstrap.rebuild_projections(urls, check=True)
    assert report.differences == []
    assert f"to position {position} of {found.head}, the rest is still" in report.compared[1]


async def test_it_is_compared_while_it_follows(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    recorded: RecordedLog,
    indexer: PostgresAuditIndexer,
) -> None:
    history, done = History(64), asyncio.Event()

    async def write() -> None:
        await play(postgres_pool, history, steps=20)
        while not done.is_set():
            await play(postgres_pool, history, steps=3)
            await follow(recorded, indexer)

    async def compare() -> None:
        ends = set()
        while len(ends) < 3:
            found = await compared(postgres_dsn)
            assert found.differences == ()
            ends.add(found.position)
        done.set()

    await asyncio.gather(write(), compare())


async def test_the_index_of_another_release_is_said_not_compared(postgres_dsn: str) -> None:
    other = replace(AUDIT_TABLES, version=AUDIT_TABLES.version + 1)
    with pytest.raises(UnavailableError, match="another release"):
        await compare_index(postgres_dsn, other, fold=fold_audit, decode=DECODE)


async def test_an_index_that_is_emptied_meanwhile_is_compared_when_it_is_there_again(
    postgres_dsn: str,
    postgres_pool: asyncpg.Pool,
    recorded: RecordedLog,
    indexer: PostgresAuditIndexer,
) -> None:
    await play(postgres_pool, History(65), steps=30)
    await follow(recorded, indexer)

    def between_folds(_: int) -> None:
        emptied.append(pool.submit(asyncio.run, reset_index(postgres_dsn, AUDIT_TABLES)))
        emptied[-1].result()

    emptied: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool, pytest.raises(UnavailableError, match="made anew"):
        await compare_index(
            postgres_dsn, AUDIT_TABLES, fold=fold_audit, decode=DECODE, progress=between_folds
        )
    assert (await compared(postgres_dsn)).position == 0
