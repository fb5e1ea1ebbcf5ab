"""The part of the composition that answers for the history: the audit index, its reads, its duty.

Below `contree.bootstrap`, which gives it what it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from contree import projections
from contree.adapters.postgres.audit_index import PostgresAuditIndexer, PostgresAuditProgress
from contree.adapters.postgres.audit_schema import IndexTables, reset_index
from contree.adapters.postgres.compare_index import IndexCompared, Progress, compare_index
from contree.adapters.postgres.listener import PostgresListener
from contree.adapters.postgres.migrate import migrate
from contree.adapters.postgres.pool import PostgresDatabase
from contree.adapters.postgres.recorded_log import PostgresRecordedLog
from contree.adapters.postgres.transcoder import OrjsonTranscoder, event_decoder
from contree.app.audit.ask_audit import AskAudit
from contree.app.audit.audit_index import AuditProgress
from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.recorded_log import RecordedLog
from contree.projections import SqlGuestStarts, audit_index
from contree.worker.follow_log import FollowLog

AUDIT_TABLES = IndexTables(
    schema=audit_index.SCHEMA, ddl=audit_index.DDL, version=audit_index.VERSION
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What answers for the history.

    recorded  the log, forwards
    progress  how far the audit index is
    ask       the use cases
    follow    the duty that keeps the index
    starts    how many guests were started of late
    """

    recorded: RecordedLog
    progress: AuditProgress
    ask: AskAudit
    follow: FollowLog
    starts: SqlGuestStarts


def history(
    pool: asyncpg.Pool,
    listener: PostgresListener,
    *,
    log: EventLog,
    clock: Clock,
    ids: IdSource,
) -> History:
    """Put together what answers for the history."""
    database, decode = PostgresDatabase(pool), OrjsonTranscoder().decode
    recorded = PostgresRecordedLog(pool, listener)
    progress = PostgresAuditProgress(pool, listener)
    indexer = PostgresAuditIndexer(
        pool, fold=audit_index.fold_audit, decode=decode, fingerprint=AUDIT_TABLES.fingerprint
    )
    return History(
        recorded=recorded,
        progress=progress,
        ask=AskAudit(
            log=log,
            recorded=recorded,
            progress=progress,
            reads=projections.SqlAuditReads(database, decode=decode),
            past=projections.SqlPastReads(database, decode_event=event_decoder()),
            clock=clock,
            ids=ids,
        ),
        follow=FollowLog(recorded=recorded, index=indexer),
        starts=SqlGuestStarts(database, decode=decode),
    )


async def reset_audit_index(owner_dsn: str) -> None:
    """Empty the index: a worker folds it again, while reads of it wait. Raises UnavailableError."""
    await reset_index(owner_dsn, AUDIT_TABLES)


async def compare_audit_index(owner_dsn: str, *, progress: Progress | None = None) -> IndexCompared:
    """Compare the index with what the log folds to. As `compare_index`."""
    return await compare_index(
        owner_dsn,
        AUDIT_TABLES,
        fold=audit_index.fold_audit,
        decode=OrjsonTranscoder().decode,
        progress=progress,
    )


async def migrate_all(owner_dsn: str, *, app_logs_in: bool = False) -> None:
    """Bring the database to this release's schema, read models and audit index. As `migrate`."""
    await migrate(
        owner_dsn, projections=projections.ALL, index=AUDIT_TABLES, app_logs_in=app_logs_in
    )
