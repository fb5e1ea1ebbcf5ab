"""Ask the recorded history: events, lineage, the past. Every look is itself recorded.

An answer waits until the audit index has reached the end of the log, so that whoever acts and then
asks finds what they did. The record comes before the answer: what cannot be recorded is not shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from contree.app.access import OPERATOR, Caller
from contree.app.audit.audit_index import AuditProgress, Mark
from contree.app.audit.audit_reads import (
    POSITION_MAX,
    AuditEntry,
    AuditFilter,
    AuditReads,
    FoundEntries,
    ImagesSeen,
    Lineage,
    OperationsSeen,
    PastReads,
    Span,
)
from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.recorded_log import RecordedLog
from contree.domain.audit_reading import NO_PROJECT, AuditReading
from contree.domain.context import Context
from contree.domain.errors import InvalidFieldError, NotFoundError, UnavailableError
from contree.domain.token import Permission

LAG_MAX_S = 2.0
"""How long an answer waits for the index."""

CLOCK_SKEW_MAX = timedelta(seconds=60)
"""A time so little ahead of ours means now; later ones are refused."""

FEED_READ_MAX = 500

Query = Mapping[str, str]
"""How something was asked for, by parameter: what the record of it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSpan:
    """Which part of the log is asked for: positions as in Span, times inclusive, all optional."""

    after: int = 0
    until_position: int = POSITION_MAX
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of the past: the last event that counts, and what time it was then."""

    position: int
    at: datetime


class AskAudit:
    """Who asks is a Context, of `reader` or `operator`: it is the record's actor."""

    def __init__(
        self,
        *,
        log: EventLog,
        recorded: RecordedLog,
        progress: AuditProgress,
        reads: AuditReads,
        past: PastReads,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._log = log
        self._recorded = recorded
        self._progress = progress
        self._reads = reads
        self._past = past
        self._clock = clock
        self._ids = ids

    def reader(self, caller: Caller) -> Context:
        """Return who reads for `caller`. Raises PermissionMissingError."""
        caller.require(Permission.AUDIT)
        return caller.context(self._clock.now())

    def operator(self, project_id: UUID | None) -> Context:
        """Return who reads for the command line, in one project or (None) in all."""
        return Context(
            actor=OPERATOR,
            project_id=NO_PROJECT if project_id is None else project_id,
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )

    async def events(
        self,
        reader: Context,
        wanted: AuditFilter,
        asked: AskedSpan,
        *,
        limit: int,
        newest_first: bool = False,
        query: Query,
    ) -> tuple[FoundEntries, int]:
        """Return a page, and the position of the end of the log when it was made.

        Raises InvalidFieldError for a time or position that is not there yet, UnavailableError when
        the index lags.
        """
        span, head = await self._span(asked)
        found = await self._reads.entries(wanted, span, limit=limit, newest_first=newest_first)
        await self._record(reader, "events", query, found=len(found.entries))
        return found, head

    async def feed(
        self,
        reader: Context,
        wanted: AuditFilter,
        asked: AskedSpan,
        *,
        quiet_s: float,
        query: Query,
    ) -> AsyncGenerator[Sequence[AuditEntry], None]:
        """Return what yields every event from there on, as it comes, without a gap, for ever.

        It yields nothing () when nothing came for `quiet_s`. Close it. Raises as `events`.
        """
        span, _ = await self._span(asked)
        await self._record(reader, "feed", query, found=0)
        return self._follow(wanted, span.after, quiet_s)

    async def lineage(
        self,
        reader: Context,
        project_id: UUID | None,
        image_id: UUID,
        *,
        depth: int,
        limit: int,
        query: Query,
    ) -> Lineage:
        """Return the image's relatives. Raises NotFoundError, UnavailableError."""
        await self._reached(await self._recorded.head())
        found = await self._reads.lineage(project_id, image_id, depth=depth, limit=limit)
        count = 0 if found is None else len(found.images)
        await self._record(reader, "lineage", query, found=count)
        if found is None:
            raise NotFoundError("image", image_id)
        return found

    async def moment(self, asked: int | datetime) -> Moment:
        """Return the point of the past that a position or a time names.

        Raises InvalidFieldError naming `as_of` for one that is not there yet, UnavailableError.
        """
        if isinstance(asked, int):
            self._check_position(asked, await self._recorded.head(), field="as_of")
            await self._reached(asked)
            return Moment(position=asked, at=await self._reads.time_of(asked))
        self._check_time(asked, field="as_of")
        mark = await self._progress.reached(0, within_s=0)
        if asked >= mark.log_time:  # else what is not in the index yet came later
            await self._reached(await self._recorded.head())
        return Moment(position=await self._reads.position_at(asked), at=asked)

    def images(self, moment: Moment) -> ImagesSeen:
        return self._past.images(moment.position)

    def operations(self, moment: Moment) -> OperationsSeen:
        return self._past.operations(moment.position)

    async def record_past(self, reader: Context, query: Query, *, found: int) -> None:
        """Record a look at the past: to be called before its answer is given."""
        await self._record(reader, "as_of", query, found=found)

    async def _follow(
        self, wanted: AuditFilter, after: int, quiet_s: float
    ) -> AsyncGenerator[Sequence[AuditEntry], None]:
        time_s = asyncio.get_running_loop().time
        spoke_at_s = time_s()
        while True:
            left_s = max(0.0, spoke_at_s + quiet_s - time_s())
            mark = await self._progress.reached(after + 1, within_s=left_s)
            span: Span | None = Span(after=after, until=mark.position)
            while span is not None and span.after < span.until:
                found = await self._reads.entries(wanted, span, limit=FEED_READ_MAX)
                if found.entries:
                    yield found.entries
                    spoke_at_s = time_s()
                span = found.rest
            after = max(after, mark.position)
            if time_s() >= spoke_at_s + quiet_s:
                yield ()
                spoke_at_s = time_s()

    async def _span(self, asked: AskedSpan) -> tuple[Span, int]:
        """Return the positions that are asked for, and the end of the log."""
        for field, moment in (("since", asked.since), ("until", asked.until)):
            if moment is not None:
                self._check_time(moment, field=field)
        head = await self._recorded.head()
        self._check_position(asked.after, head, field="after")
        await self._reached(head)
        after, until = asked.after, min(asked.until_position, head)
        if asked.since is not None:
            after = max(after, await self._reads.position_at(asked.since, inclusive=False))
        if asked.until is not None:
            until = min(until, await self._reads.position_at(asked.until))
        return Span(after=after, until=until), head

    async def _reached(self, position: int) -> Mark:
        mark = await self._progress.reached(position, within_s=LAG_MAX_S)
        if mark.position < position:
            raise UnavailableError(
                f"the audit index is at position {mark.position} and the log at {position}: it "
                "is being brought up to date, ask again"
            )
        return mark

    async def _record(self, reader: Context, subject: str, query: Query, *, found: int) -> None:
        reading = AuditReading.record(
            reader, reading_id=self._ids.new_id(), subject=subject, query=query, found=found
        )
        await self._log.append(reading)

    def _check_time(self, moment: datetime, *, field: str) -> None:
        now = self._clock.now()
        if moment > now + CLOCK_SKEW_MAX:
            raise InvalidFieldError(
                field, f"{moment.isoformat()} is in the future, it is {now.isoformat()}"
            )

    def _check_position(self, position: int, head: int, *, field: str) -> None:
        if position > head:
            raise InvalidFieldError(
                field, f"position {position} is beyond the end of the log, at {head}"
            )
