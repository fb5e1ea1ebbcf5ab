"""The audit index and its answers over the fake event log: every call looks at the whole log.

Written apart from `contree.projections`, so that the contract suite compares two opinions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from contree.app.audit.audit_index import NEVER, Mark
from contree.app.audit.audit_reads import (
    LINEAGE_ARGS_BYTES,
    LINEAGE_COMMAND_CHARS,
    PAGE_BYTES_MAX,
    AuditEntry,
    AuditFilter,
    FoundEntries,
    ImagesSeen,
    Lineage,
    MakingOperation,
    OperationsSeen,
    RelatedImage,
    Span,
)
from contree.app.recorded_log import is_full
from contree.domain.aggregate import Event
from contree.domain.image import ImageCommitted, ImageImported
from contree.domain.operation import InstanceRequested, OperationSucceeded
from contree.domain.tag import TagAssigned, TagMoved, TagRemoved
from tests.fakes.event_log import FakeEventLog
from tests.fakes.reads import FakeImageReads, FakeOperationReads
from tests.fakes.recorded_log import FakeRecordedLog, filling


class FakeAuditProgress:
    """The index is at the log's head at once, unless it is `held` at a position."""

    def __init__(self, log: FakeEventLog, recorded: FakeRecordedLog) -> None:
        self._log = log
        self._recorded = recorded
        self.held: int | None = None

    async def reached(self, position: int, *, within_s: float) -> Mark:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._log.grown:
                while await self._position() < position:
                    await self._log.grown.wait()
        at = await self._position()
        events = self._recorded.events[:at]
        return Mark(
            position=at,
            log_time=max((e.recorded_at for e in events), default=NEVER),
            latest_at=max((e.timestamp for e in self._log.events[:at]), default=NEVER),
        )

    async def _position(self) -> int:
        head = await self._recorded.head()
        return head if self.held is None else min(self.held, head)


class FakeAuditReads:
    def __init__(self, log: FakeEventLog, recorded: FakeRecordedLog) -> None:
        self._log = log
        self._recorded = recorded

    async def entries(
        self, wanted: AuditFilter, span: Span, *, limit: int, newest_first: bool = False
    ) -> FoundEntries:
        whole = self._recorded.events
        meeting = [
            AuditEntry(event=recorded, facts=facts_of(event))
            for recorded, event in zip(whole, self._log.events, strict=True)
            if span.after < recorded.position <= span.until and meets(event, wanted)
        ]
        if newest_first:
            meeting.reverse()
        filled = filling([entry.event for entry in meeting[:limit]], PAGE_BYTES_MAX)
        found = meeting[: len(filled)]
        if not is_full([event.state for event in filled], rows_max=limit, bytes_max=PAGE_BYTES_MAX):
            return FoundEntries(entries=found, rest=None)
        last = found[-1].event.position
        end = min(span.until, len(whole))
        rest = (
            Span(after=span.after, until=last - 1) if newest_first else Span(after=last, until=end)
        )
        return FoundEntries(entries=found, rest=rest if rest.after < rest.until else None)

    async def position_at(self, moment: datetime, *, inclusive: bool = True) -> int:
        latest, position = NEVER, 0
        if inclusive:
            moment += timedelta(microseconds=1)
        for event in self._recorded.events:
            latest = max(latest, event.recorded_at)
            if latest < moment:
                position = event.position
        return position

    async def time_of(self, position: int) -> datetime:
        events = self._recorded.events[:position]
        return max((e.recorded_at for e in events), default=NEVER)

    async def lineage(
        self, project_id: UUID | None, image_id: UUID, *, depth: int, limit: int
    ) -> Lineage | None:
        made = {
            e.originator_id: e
            for e in self._log.events
            if isinstance(e, ImageImported | ImageCommitted)
        }
        own = made.get(image_id)
        if own is None or project_id not in {None, own.project_id}:
            return None
        above: list[tuple[int, UUID]] = []
        at = parent_of(own)
        while at is not None:
            above.append((-len(above) - 1, at))
            at = parent_of(made[at])
        kept = above[: min(depth, limit)]
        below: list[tuple[int, UUID]] = []
        generation, number = [image_id], 0
        while generation:
            number += 1
            children = [e for e in made.values() if parent_of(e) in generation]
            children.sort(key=lambda e: (e.timestamp, e.originator_id))
            generation = [e.originator_id for e in children]
            below += [(number, id_) for id_ in generation]
        within = [pair for pair in below if pair[0] <= depth][: max(0, limit - len(kept))]
        shown = [*reversed(kept), (0, image_id), *within]
        return Lineage(
            image_id=image_id,
            project_id=own.project_id,
            images=[await self._related(made[id_], number) for number, id_ in shown],
            truncated=len(kept) < len(above) or len(within) < len(below),
        )

    async def _related(self, made: ImageImported | ImageCommitted, depth: int) -> RelatedImage:
        images = FakeImageReads(self._log)
        return RelatedImage(
            image_id=made.originator_id,
            parent_image_id=parent_of(made),
            depth=depth,
            created_at=made.timestamp,
            tags=tuple(await images.tags_of(made.project_id, made.originator_id)),
            operation=await self._making(made),
        )

    async def _making(self, made: ImageImported | ImageCommitted) -> MakingOperation | None:
        row = await FakeOperationReads(self._log).get(made.project_id, made.operation_id)
        if row is None:
            return None
        args = row.request.get("args")
        long = row.request.get("body") or len(json.dumps(args)) > LINEAGE_ARGS_BYTES
        return MakingOperation(
            operation_id=row.operation_id,
            kind=row.kind,
            command=row.request.get("command", "")[:LINEAGE_COMMAND_CHARS] or None,
            args=None if long else args,
            registry_url=row.request.get("registry_url"),
            exit_code=None if row.outcome is None else row.outcome["exit_code"],
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            duration_us=row.duration_us,
        )


class FakePastReads:
    """The fake reads over the first events of the log."""

    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    def images(self, position: int) -> ImagesSeen:
        return FakeImageReads(self._first(position))

    def operations(self, position: int) -> OperationsSeen:
        return FakeOperationReads(self._first(position))

    def _first(self, position: int) -> FakeEventLog:
        first = FakeEventLog()
        first.events = self._log.events[:position]
        return first


def facts_of(event: Event) -> dict[str, Any]:
    """The fields that are stored in the event's state, as the log's own decoder gives them."""
    columns = {"originator_id", "originator_version"}
    return {name: value for name, value in vars(event).items() if name not in columns}


def parent_of(made: ImageImported | ImageCommitted) -> UUID | None:
    return made.parent_image_id if isinstance(made, ImageCommitted) else None


def meets(event: Event, wanted: AuditFilter) -> bool:
    return (
        wanted.project_id in {None, event.project_id}
        and wanted.actor in {None, event.actor}
        and wanted.operation_id in {None, operation_of(event)}
        and (wanted.image_id is None or wanted.image_id in images_of(event))
        and (wanted.tag is None or wanted.tag == tag_of(event))
        and (wanted.types is None or type(event).TOPIC in wanted.types)
    )


def operation_of(event: Event) -> UUID | None:
    if type(event).TOPIC.startswith("contree.operation."):
        return event.originator_id
    return event.operation_id if isinstance(event, ImageImported | ImageCommitted) else None


def images_of(event: Event) -> set[UUID | None]:
    match event:
        case ImageImported():
            return {event.originator_id}
        case ImageCommitted():
            return {event.originator_id, event.parent_image_id}
        case InstanceRequested():
            return {UUID(event.spec["image_id"])}
        case OperationSucceeded():
            return {event.result_image_id}
        case TagAssigned():
            return {event.image_id}
        case TagMoved():
            return {event.image_id, event.previous_image_id}
        case TagRemoved():
            return {event.previous_image_id}
        case _:
            return set()


def tag_of(event: Event) -> str | None:
    name: str | None = getattr(event, "result_tag", None) or getattr(event, "tag", None)
    if isinstance(event, TagAssigned | TagMoved | TagRemoved):
        name = event.name
    return name


def positions(entries: Sequence[AuditEntry]) -> list[int]:
    return [entry.event.position for entry in entries]
