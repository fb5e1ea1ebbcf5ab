"""Drop this host's copies of layers that the fleet has removed: a duty of each host for itself.

It reads the log from where this host has come, so that one that was away drops them once it is
back. It notes how far it is only once nothing is left to do up to there: killed at any point, it
does some of it again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from contree.app.clock import Clock
from contree.app.content.remove_layers import RemoveLayers
from contree.app.images.layer_store import LayerRemoval
from contree.app.reads import ProjectReads
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.domain.project import ContentRemoved

LOOK_AGAIN_S: Final = 10.0

LATE: Final = timedelta(hours=1)
"""So much later it is looked again: a download that had begun may have ended meanwhile."""

log = logging.getLogger(__name__)


class HostMark(Protocol):
    """How far this host is in the log; survives its processes."""

    def read(self) -> int | None:
        """The position; None before the first."""
        ...

    def write(self, position: int) -> None: ...


@dataclass(slots=True)
class _Due:
    """A project whose layers are to go from here: looked at from `at` on, the last time at `last`.

    position  of the event that said so
    """

    position: int
    at: datetime
    last: datetime


class DropLayers:
    """worker.duties.Duty, of one process a host."""

    name = "drop layers"

    def __init__(
        self,
        *,
        recorded: RecordedLog,
        projects: ProjectReads,
        layers: RemoveLayers,
        here: LayerRemoval,
        mark: HostMark,
        clock: Clock,
    ) -> None:
        self._recorded = recorded
        self._projects = projects
        self._layers = layers
        self._here = here
        self._mark = mark
        self._clock = clock
        self._reached: int | None = None
        self._due: dict[UUID, _Due] = {}

    async def run(self) -> None:
        """Look again and again. Raises UnavailableError."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Read on in the log, and drop what is to go by now."""
        if self._reached is None:
            self._reached = await self._begun()
        head = await self._recorded.head()
        while self._reached < head and (events := await self._recorded.read(after=self._reached)):
            for event in events:
                await self._heard(event)
                self._reached = event.position
        for project_id, due in list(self._due.items()):
            if due.at <= self._clock.now():
                await self._drop(project_id, due)
        done = min((due.position - 1 for due in self._due.values()), default=self._reached)
        if done != self._mark.read():
            self._mark.write(done)

    async def _begun(self) -> int:
        """Where this host has come; at first, the log's end, and all that went before is due."""
        marked = self._mark.read()
        if marked is not None:
            return marked
        head = await self._recorded.head()
        for row in await self._projects.list():
            if row.cleared_at is not None:
                self._note(row.project_id, position=head, at=row.cleared_at)
        return head

    async def _heard(self, event: RecordedEvent) -> None:
        if event.topic != ContentRemoved.TOPIC:
            return
        row = await self._projects.get(event.aggregate_id)
        if row is not None and row.cleared_at is not None:
            self._note(row.project_id, position=event.position, at=row.cleared_at)

    def _note(self, project_id: UUID, *, position: int, at: datetime) -> None:
        self._due.setdefault(project_id, _Due(position=position, at=at, last=at + LATE))

    async def _drop(self, project_id: UUID, due: _Due) -> None:
        began = self._clock.now()
        removed, is_complete = await self._layers.from_host(self._here, project_id)
        if removed.layer_count:
            log.info("%d layers of erased project %s are dropped", removed.layer_count, project_id)
        if not is_complete:
            return
        if began >= due.last:
            del self._due[project_id]
        else:
            due.at = due.last
