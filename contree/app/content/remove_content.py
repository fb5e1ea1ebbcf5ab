"""Remove content that has to go: of operations that expired, and of projects that were erased.

What is to go is in the log before anything goes, and what went is in the log after. In between
everything may be killed and begun again: nothing is remembered but in the log, and what is removed
already is no error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from contree.app.clock import Clock, IdSource
from contree.app.content.blob_store import Removed
from contree.app.content.content_index import ContentIndex, OperationContent
from contree.app.content.project_content import ProjectContent
from contree.app.content.remove_layers import SETTLED, RemoveLayers
from contree.app.event_log import EventLog
from contree.app.images.layer_store import LayerRemoval, RemovedLayers, SharedLayerRemoval
from contree.app.journal import Journal
from contree.app.reads import ProjectReads, ProjectRow
from contree.app.retries import retry_conflicts
from contree.domain.context import Context
from contree.domain.errors import (
    ContentErasedError,
    InvalidTransitionError,
    NotFoundError,
    UnavailableError,
)
from contree.domain.operation import Operation
from contree.domain.project import Project, Removal

BATCH_OPERATIONS: Final = 200

FRESH: Final = timedelta(hours=1)
"""Content that was put so recently may belong to something that is being recorded just now."""

GONE_MAX: Final = 10_000
"""Digests that one pass remembers."""

LOOK_AGAIN_S: Final = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one pass over a project did. `is_complete` when nothing is left to do."""

    is_complete: bool
    journal_count: int = 0
    removed: Removed = field(default_factory=Removed)
    layers: RemovedLayers = field(default_factory=RemovedLayers)

    @property
    def is_nothing(self) -> bool:
        return not (self.journal_count or self.removed.blob_count or self.layers.layer_count)


class RemovalParts(Protocol):
    """What removal works on."""

    @property
    def log(self) -> EventLog: ...
    @property
    def projects(self) -> ProjectReads: ...
    @property
    def content_index(self) -> ContentIndex: ...
    @property
    def content(self) -> ProjectContent: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def layer_removal(self) -> LayerRemoval: ...
    @property
    def shared_layers(self) -> SharedLayerRemoval | None:
        """What a fleet shares; None where this host has the only layers."""
        ...

    @property
    def clock(self) -> Clock: ...
    @property
    def ids(self) -> IdSource: ...


class RemoveContent:
    """One pass over one project at a time; `actor` is who the log names."""

    def __init__(
        self,
        parts: RemovalParts,
        *,
        actor: str,
        fresh: timedelta = FRESH,
        settled: timedelta = SETTLED,
    ) -> None:
        self._log = parts.log
        self._projects = parts.projects
        self._index = parts.content_index
        self._content = parts.content
        self._journal = parts.journal
        self._removal = parts.layer_removal
        self._shared_layers = parts.shared_layers
        self._layers = RemoveLayers(index=parts.content_index, clock=parts.clock, settled=settled)
        self._clock = parts.clock
        self._ids = parts.ids
        self._actor = actor
        self._fresh = fresh

    async def apply_retention(self, project_id: UUID) -> bool:
        """Let expire what the project's retention says; say whether something did.

        From the event on, the API does not show it any more; `sweep` removes it.
        """

        async def attempt() -> bool:
            project = await self._load(project_id)
            context = self._context(project_id)
            cut = project.retention_cut(context.at)
            if cut is None:
                return False
            count = await self._index.ended_count(project_id, since=project.content_cut, before=cut)
            if not count:
                return False
            project.apply_retention(context, cut=cut, operation_count=count)
            await self._log.append(project)
            return True

        return await retry_conflicts(attempt)

    async def sweep(self, project_id: UUID) -> Outcome:
        """Remove what has expired, and record it when all of it is gone.

        Stops at a legal hold. What was put a moment ago is left for a later pass, and so is a
        journal that is still to be packed: its content would come after.
        """
        row = await self._row(project_id)
        cut, journal_count, removed, is_complete = row.content_cut, 0, Removed(), True
        if cut is None or cut == row.swept_cut:
            return Outcome(is_complete=True)
        put_before = self._clock.now() - self._fresh
        gone: dict[str, None] = {}  # what many operations had is looked up once, not in each batch
        async for batch in self._batches(project_id, since=row.swept_cut, before=cut):
            if (await self._row(project_id)).hold_reason is not None:
                is_complete = False
                break
            packed = [one.operation_id for one in batch if not one.is_unpacked]
            is_complete = is_complete and len(packed) == len(batch)
            journal_count += await self._journal.forget(packed)
            digests = frozenset().union(*(one.digests for one in batch)) - gone.keys()
            needed = await self._index.needed(project_id, digests, ended_since=cut)
            for sha256 in sorted(digests - needed):
                went = await self._content.remove(project_id, sha256, put_before=put_before)
                is_complete = is_complete and went is not None
                removed += went or Removed()
                gone[sha256] = None
            for sha256 in list(gone)[:-GONE_MAX]:
                del gone[sha256]
        return await self._recorded(
            project_id,
            Removal.RETENTION,
            Outcome(is_complete=is_complete, journal_count=journal_count, removed=removed),
        )

    async def clear(self, project_id: UUID) -> Outcome:
        """Stop what runs in an erased project; once nothing does, remove what it left on disk.

        Layers that other projects have stay, and so do, for now, those that one may be about to
        have.
        """
        row = await self._row(project_id)
        if row.erased_at is None or row.cleared_at is not None:
            return Outcome(is_complete=row.erased_at is not None)
        for operation_id in await self._index.unended(project_id):
            await self._cancel(operation_id)
        if await self._index.unended(project_id):
            return Outcome(is_complete=False)
        journal_count = 0
        async for batch in self._batches(project_id):
            journal_count += await self._journal.forget([one.operation_id for one in batch])
        removed = await self._content.clear(project_id)
        if self._shared_layers is None:
            layers, is_complete = await self._layers.from_host(self._removal, project_id)
        else:
            layers, is_complete = await self._layers.from_fleet(self._shared_layers, project_id)
        return await self._recorded(
            project_id,
            Removal.ERASURE,
            Outcome(
                is_complete=is_complete,
                journal_count=journal_count,
                removed=removed,
                layers=layers,
            ),
        )

    async def _batches(
        self, project_id: UUID, *, since: datetime | None = None, before: datetime | None = None
    ) -> AsyncIterator[Sequence[OperationContent]]:
        last: OperationContent | None = None
        while batch := await self._index.ended(
            project_id, since=since, before=before, after=last, limit=BATCH_OPERATIONS
        ):
            yield batch
            last = batch[-1]

    async def _cancel(self, operation_id: UUID) -> None:
        async def attempt() -> None:
            operation = await self._log.load(Operation, operation_id)
            if operation is None or operation.status.is_terminal:
                return
            operation.cancel(self._context(operation.project_id))
            await self._log.append(operation)

        await retry_conflicts(attempt)

    async def _recorded(self, project_id: UUID, cause: Removal, outcome: Outcome) -> Outcome:
        """Record what a pass did, if it did anything or has come to the end."""

        async def attempt() -> None:
            project = await self._load(project_id)
            project.content_removed(
                self._context(project_id),
                cause=cause,
                complete=outcome.is_complete,
                journal_count=outcome.journal_count,
                blob_count=outcome.removed.blob_count,
                blob_bytes=outcome.removed.blob_bytes,
                layer_count=outcome.layers.layer_count,
                layer_bytes=outcome.layers.layer_bytes,
            )
            await self._log.append(project)

        if outcome.is_complete or not outcome.is_nothing:
            await retry_conflicts(attempt)
        return outcome

    async def _row(self, project_id: UUID) -> ProjectRow:
        row = await self._projects.get(project_id)
        if row is None:
            raise NotFoundError("project", project_id)
        return row

    async def _load(self, project_id: UUID) -> Project:
        project = await self._log.load(Project, project_id)
        if project is None:
            raise NotFoundError("project", project_id)
        return project

    def _context(self, project_id: UUID) -> Context:
        return Context(
            actor=self._actor,
            project_id=project_id,
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )


class RemovalDuty:
    """Keeps content from staying longer than it may. A worker's duty (worker.duties)."""

    name = "remove content"

    def __init__(self, *, removal: RemoveContent, projects: ProjectReads, clock: Clock) -> None:
        self._removal = removal
        self._projects = projects
        self._clock = clock
        self._looked: dict[UUID, datetime] = {}

    async def run(self) -> None:
        """Look at all projects, again and again. Raises UnavailableError."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Do what is due now; what one project makes impossible does not hold up the others."""
        for row in await self._projects.to_tend():
            try:
                await self._tend(row)
            except UnavailableError:
                raise
            except (ContentErasedError, InvalidTransitionError, NotFoundError) as error:
                log.info("project %s changed meanwhile: %s", row.project_id, error)

    async def _tend(self, row: ProjectRow) -> None:
        if row.erased_at is not None:
            await self._removal.clear(row.project_id)
            return
        # Cuts are whole hours: looking more often finds nothing.
        hour = self._clock.now().replace(minute=0, second=0, microsecond=0)
        is_swept = row.content_cut == row.swept_cut
        if is_swept and self._looked.get(row.project_id) == hour:
            return
        await self._removal.apply_retention(row.project_id)
        self._looked[row.project_id] = hour
        await self._removal.sweep(row.project_id)
