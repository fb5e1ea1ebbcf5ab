"""What content belongs to whom, folded from the fake log; apart from the SQL of the real one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from contree.app.content.content_index import OperationContent
from contree.domain import operation as op
from contree.domain.file import FileUploaded
from tests.fakes.event_log import FakeEventLog
from tests.fakes.journal import FakeJournal


@dataclass
class _Operation:
    id: UUID
    project_id: UUID
    created_at: datetime
    finished_at: datetime | None = None
    digests: set[str] = field(default_factory=set)


class FakeContentIndex:
    def __init__(self, log: FakeEventLog, journal: FakeJournal | None = None) -> None:
        self._log = log
        self._journal = FakeJournal() if journal is None else journal

    async def ended_count(
        self, project_id: UUID, *, since: datetime | None, before: datetime
    ) -> int:
        return len(self._ended(project_id, since, before))

    async def ended(
        self,
        project_id: UUID,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        after: OperationContent | None = None,
        limit: int,
    ) -> Sequence[OperationContent]:
        place = None if after is None else (after.created_at, after.operation_id)
        found = sorted(
            self._ended(project_id, since, before), key=lambda one: (one.created_at, one.id)
        )
        return [
            OperationContent(
                operation_id=one.id,
                created_at=one.created_at,
                digests=frozenset(one.digests | self._journal.digests_of(one.id)),
                is_unpacked=self._journal.is_unpacked(one.id),
            )
            for one in found
            if place is None or (one.created_at, one.id) > place
        ][:limit]

    async def needed(
        self, project_id: UUID, digests: frozenset[str], *, ended_since: datetime
    ) -> frozenset[str]:
        had = {
            e.sha256
            for e in self._log.events
            if isinstance(e, FileUploaded) and e.project_id == project_id
        }
        for one in self._of(project_id):
            if one.finished_at is None or one.finished_at >= ended_since:
                had |= one.digests
        had.add(hashlib.sha256().hexdigest())
        return digests & had

    async def unended(self, project_id: UUID) -> Sequence[UUID]:
        found = sorted(self._of(project_id), key=lambda one: (one.created_at, one.id))
        return [one.id for one in found if one.finished_at is None]

    def _ended(
        self, project_id: UUID, since: datetime | None, before: datetime | None
    ) -> list[_Operation]:
        return [
            one
            for one in self._of(project_id)
            if one.finished_at is not None
            and (since is None or one.finished_at >= since)
            and (before is None or one.finished_at < before)
        ]

    def _of(self, project_id: UUID) -> list[_Operation]:
        found: dict[UUID, _Operation] = {}
        for e in self._log.events:
            id_ = e.originator_id
            if isinstance(e, op.InstanceRequested | op.ImportRequested):
                found[id_] = _Operation(id_, e.project_id, e.timestamp)
            if isinstance(e, op.InstanceRequested | op.SubprocessSpawned):
                given = (e.spec["stdin"], e.spec["body"])
                found[id_].digests |= {one["sha256"] for one in given if one is not None}
            if isinstance(e, op.OperationSucceeded | op.OperationFailed | op.OperationCancelled):
                found[id_].finished_at = e.timestamp
                outcome = None if isinstance(e, op.OperationCancelled) else e.outcome
                if outcome is not None:
                    found[id_].digests |= {outcome[s]["sha256"] for s in ("stdout", "stderr")}
        return [one for one in found.values() if one.project_id == project_id]
