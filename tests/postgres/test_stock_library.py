"""The unmodified eventsourcing library, through psycopg, on the table that we wrote."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import pytest
from eventsourcing.persistence import (
    DatetimeAsISO,
    JSONTranscoder,
    Mapper,
    UUIDAsHex,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from contree.adapters.postgres.chain import verify_chain
from contree.adapters.postgres.embedded import OWNER
from contree.adapters.postgres.event_log import PostgresEventLog
from contree.domain.aggregate import Aggregate, Event
from contree.projections import ALL
from tests.support.histories import History

pytestmark = pytest.mark.postgres


def stock_datastore(dsn: str) -> PostgresDatastore:
    parts = urlsplit(dsn)
    return PostgresDatastore(
        dbname=parts.path[1:],
        host=parse_qs(parts.query)["host"][0],
        port="5432",
        user=OWNER,
        password="",
        pool_size=1,
        max_overflow=0,
    )


def stock_mapper() -> Mapper[UUID]:
    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    return Mapper(transcoder)


async def test_it_reads_the_log_and_rebuilds_every_aggregate_equal_to_ours(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    log, history = PostgresEventLog(postgres_pool, ALL), History(31)
    for touched in history.steps(400):
        await log.append(*touched)
    mapper = stock_mapper()
    with stock_datastore(postgres_dsn) as datastore:
        recorder = PostgresApplicationRecorder(datastore, events_table_name="stored_events")
        notifications = recorder.select_notifications(start=1, limit=1_000_000)
        ids = [n.id for n in notifications]
        assert ids == sorted(ids)
        assert len(ids) == await postgres_pool.fetchval("SELECT count(*) FROM stored_events")
        assert {n.originator_id for n in notifications} == set(history.aggregates)
        for id_, ours in history.aggregates.items():
            theirs: Aggregate | None = None
            for stored in recorder.select_events(id_):
                event = mapper.to_domain_event(stored)
                assert isinstance(event, Event)
                theirs = event.mutate(theirs)
            assert theirs == ours
            assert theirs == await log.load(type(ours), id_)


async def test_what_it_appends_is_ordered_chained_and_loaded_by_us(
    postgres_dsn: str, postgres_pool: asyncpg.Pool
) -> None:
    log, history, mapper = PostgresEventLog(postgres_pool, ALL), History(32), stock_mapper()
    with stock_datastore(postgres_dsn) as datastore:
        recorder = PostgresApplicationRecorder(datastore, events_table_name="stored_events")
        recorder.create_table()
        for touched in history.steps(30):
            events = [e for a in touched for e in a.collect_events()]
            recorder.insert_events([mapper.to_stored_event(e) for e in events])
    for id_, aggregate in history.aggregates.items():
        assert await log.load(type(aggregate), id_) == aggregate
    report = await verify_chain(postgres_pool)
    assert report.event_count > 30
    assert report.broken_at is None
