"""`?as_of=`: the answer that the API would have given at a moment of the past.

`@123` is a position of the log, everything else a time in the forms of `since`. It takes the
permission `audit` beside the route's own; the answer's `Contree-As-Of` header names the position
that it is the answer for, so that the same question can be asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from contree.app.audit.ask_audit import AskAudit, Moment
from contree.app.audit.audit_reads import POSITION_MAX, ImagesSeen, OperationsSeen
from contree.domain.context import Context
from contree.http.query import whole_number
from contree.http.times import moment_of
from contree.http.wiring import CALLER, SERVICES

HEADER = "Contree-As-Of"
POSITION_MARK = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A look at the past, to be recorded."""

    audit: AskAudit
    reader: Context
    moment: Moment
    query: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a request sees: the present, or the past that it asks for.

    now      the time there, for durations and intervals
    headers  that its answer carries
    """

    images: ImagesSeen
    operations: OperationsSeen
    now: datetime
    headers: dict[str, str]
    look: _Look | None = None

    @property
    def is_past(self) -> bool:
        return self.look is not None

    async def record(self, found: int) -> None:
        """Record a look at the past: before its answer, or the refusal that nothing was found."""
        if self.look is not None:
            await self.look.audit.record_past(self.look.reader, self.look.query, found=found)


async def seen_by(request: web.Request) -> Seen:
    """Return what the request asks to see. Raises as AskAudit.moment, PermissionMissingError."""
    services = request.app[SERVICES]
    text = request.query.get("as_of")
    now = services.clock.now()
    if text is None:
        return Seen(images=services.images, operations=services.operations, now=now, headers={})
    audit = services.audit
    reader = audit.reader(request[CALLER])
    moment = await audit.moment(_asked(text, now))
    return Seen(
        images=audit.images(moment),
        operations=audit.operations(moment),
        now=moment.at,
        headers={HEADER: f"{POSITION_MARK}{moment.position}"},
        look=_Look(audit=audit, reader=reader, moment=moment, query=recorded_query(request)),
    )


def recorded_query(request: web.Request) -> dict[str, str]:
    """What the record of a look tells of its request: the path, and the parameters by name."""
    query = {"path": request.path}
    for name in dict.fromkeys(request.query):
        query[name] = ",".join(request.query.getall(name)).replace("\0", "\ufffd")
    return query


def _asked(text: str, now: datetime) -> int | datetime:
    if text.startswith(POSITION_MARK):
        return whole_number(text[1:], field="as_of", low=0, high=POSITION_MAX)
    return moment_of(text, field="as_of", now=now)
