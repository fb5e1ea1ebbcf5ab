"""The parameters of `/v1/audit/events` to what is asked for."""

from __future__ import annotations

from aiohttp import web

from contree.app.audit.ask_audit import AskedSpan
from contree.app.audit.audit_reads import POSITION_MAX, AuditFilter
from contree.app.audit.audit_types import wanted_types
from contree.domain.errors import InvalidFieldError
from contree.domain.tag import parse_tag
from contree.http.query import LIMIT_DEFAULT, LIMIT_MAX, number_of, parse_uuid, text_of
from contree.http.query import whole_number as whole
from contree.http.times import moment_of
from contree.http.wiring import CALLER, SERVICES

ACTOR_CHARS_MAX = 256
TYPES_MAX = 64
NDJSON = "application/x-ndjson"
NDJSON_NAMES = {NDJSON, "application/ndjson", "application/jsonl"}
NOT_FOLLOWED = ("until", "until_position", "cursor", "limit", "order")


def filter_of(request: web.Request) -> AuditFilter:
    """Return which events are asked for, of the caller's project. Raises InvalidFieldError."""
    ids = {
        name: None if (text := request.query.get(name)) is None else parse_uuid(text, field=name)
        for name in ("operation", "image")
    }
    actor, tag = text_of(request, "actor"), request.query.get("tag")
    if actor is not None and not 1 <= len(actor) <= ACTOR_CHARS_MAX:
        raise InvalidFieldError("actor", f"must have 1 to {ACTOR_CHARS_MAX} characters")
    types = request.query.getall("type", [])
    if len(types) > TYPES_MAX:
        raise InvalidFieldError("type", f"is there more than {TYPES_MAX} times")
    return AuditFilter(
        project_id=request[CALLER].project_id,
        actor=actor,
        operation_id=ids["operation"],
        image_id=ids["image"],
        tag=None if tag is None else parse_tag(tag),
        types=wanted_types(types),
    )


def span_of(request: web.Request, *, newest_first: bool) -> AskedSpan:
    """Return which part of the log is asked for. Raises InvalidFieldError."""
    now = request.app[SERVICES].clock.now()
    after, until_position, cursor = (
        None if (text := request.query.get(name)) is None else position_of(text, field=name)
        for name in ("after", "until_position", "cursor")
    )
    since, until = (
        None if (text := request.query.get(name)) is None else moment_of(text, field=name, now=now)
        for name in ("since", "until")
    )
    if cursor is not None and newest_first:
        until_position = min(POSITION_MAX if until_position is None else until_position, cursor)
    elif cursor is not None:
        after = max(after or 0, cursor)
    return AskedSpan(
        after=after or 0,
        until_position=POSITION_MAX if until_position is None else until_position,
        since=since,
        until=until,
    )


def feed_span_of(request: web.Request) -> AskedSpan:
    """Return where a feed begins; `Last-Event-ID` wins. Raises InvalidFieldError."""
    for name in NOT_FOLLOWED:
        if name in request.query:
            raise InvalidFieldError(name, "has no meaning with follow, leave it out")
    last_seen = last_seen_of(request)
    if last_seen is not None:
        return AskedSpan(after=last_seen)
    return span_of(request, newest_first=False)


def last_seen_of(request: web.Request) -> int | None:
    """Return the position that a reader who comes back saw last. Raises InvalidFieldError."""
    text = request.headers.get("Last-Event-ID")
    return None if text is None else position_of(text, field="Last-Event-ID")


def newest_first_of(request: web.Request) -> bool:
    order = request.query.get("order", "asc")
    if order not in {"asc", "desc"}:
        raise InvalidFieldError("order", f"'{order[:40]}' is none of asc, desc")
    return order == "desc"


def limit_of(request: web.Request) -> int:
    return number_of(request, "limit", default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX)


def wants_ndjson(request: web.Request) -> bool:
    """Whether a feed goes out as NDJSON: `format` says, else `Accept`, else it is SSE."""
    form = request.query.get("format")
    if form is None:
        offers = request.headers.get("Accept", "").split(",")
        return any(o.partition(";")[0].strip().lower() in NDJSON_NAMES for o in offers)
    if form not in {"sse", "ndjson"}:
        raise InvalidFieldError("format", f"'{form[:40]}' is none of sse, ndjson")
    return form == "ndjson"


def position_of(text: str, *, field: str) -> int:
    return whole(text, field=field, low=0, high=POSITION_MAX)
