"""`contreed audit log`: the recorded history, for the operator.

An operator sees all projects. What is read here is recorded like any other look, before it is
printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson

from contree import bootstrap
from contree.app.access import OPERATOR
from contree.app.audit.ask_audit import AskAudit, AskedSpan
from contree.app.audit.audit_reads import AuditEntry, AuditFilter, Span
from contree.app.audit.audit_types import wanted_types
from contree.app.audit.cloud_event import cloud_event
from contree.app.short_ids import IdKind, KnownIds, parse_short_id
from contree.app.tree_text import UNSEEN
from contree.cli.output import add_json, moment
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.domain.project import project_id_of
from contree.domain.tag import parse_tag
from contree.http.times import moment_of
from contree.worker.duties import duties_kept

LIMIT_DEFAULT = 100
PAGE_EVENTS = 1000
QUIET_S = 10.0
SHOWN_CHARS_MAX = 100
SHORT_DIGITS = 8
WORKER_PREFIX = "worker:"
FILTERS = {
    "project": "NAME",
    "actor": "WHO",
    "operation": "ID",
    "image": "ID",
    "tag": "NAME",
    "since": "TIME",
    "until": "TIME",
}


def add_commands(actions: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add `log` to the actions of `contreed audit`."""
    log = actions.add_parser(
        "log", parents=[common], help="look through the recorded history, or follow it"
    )
    for name, shown in FILTERS.items():
        log.add_argument(f"--{name}", metavar=shown)
    log.add_argument(
        "--type",
        action="append",
        default=[],
        metavar="TYPE",
        help="may be repeated; with a dot at its end, what begins so",
    )
    log.add_argument("--after", type=int, default=0, metavar="N", help="beyond this position")
    log.add_argument("--until-position", type=int, metavar="N", help="up to this position")
    log.add_argument(
        *("-n", "--limit"),
        type=int,
        metavar="N",
        help=f"the N newest, or with --after the first N; default {LIMIT_DEFAULT}; 0: all",
    )
    log.add_argument("--reverse", action="store_true", help="the newest first, else last")
    log.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    add_json(log, what="CloudEvents, one a line")
    log.set_defaults(command=_log)


async def _log(settings: Settings, arguments: argparse.Namespace) -> None:
    asked = _span(arguments)
    query = {
        name: text
        for name in (*FILTERS, "type", "after", "until_position", "limit", "reverse", "follow")
        if (text := _said(getattr(arguments, name)))
    }
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
        # Where no worker does it, the index is brought up to date here.
        duties_kept([core.history.follow], core.leadership),
    ):
        wanted = await _filter(arguments, core.known_ids)
        audit = core.history.ask
        if arguments.follow:
            reader = audit.operator(wanted.project_id)
            batches = await audit.feed(reader, wanted, asked, quiet_s=QUIET_S, query=query)
        elif _is_tail(arguments):
            batches = _tail(audit, wanted, asked, arguments, query)
        else:
            batches = _pages(audit, wanted, asked, arguments, query)
        projects = {str(row.token_id): row.project_name for row in await core.tokens.list()}
        async with aclosing(batches):
            async for entries in batches:
                for entry in entries:
                    sys.stdout.write(_json(entry) if arguments.json else _line(entry, projects))
                sys.stdout.flush()


async def _pages(
    audit: AskAudit,
    wanted: AuditFilter,
    asked: AskedSpan,
    arguments: argparse.Namespace,
    query: dict[str, str],
) -> AsyncGenerator[Sequence[AuditEntry], None]:
    """Yield page after page until the limit, or the end that the log had at the beginning."""
    limit = _limit(arguments)
    reader = audit.operator(wanted.project_id)
    count = 0
    while not limit or count < limit:
        page_limit = min(PAGE_EVENTS, limit - count) if limit else PAGE_EVENTS
        found, _ = await audit.events(
            reader,
            wanted,
            asked,
            limit=page_limit,
            newest_first=arguments.reverse,
            query=query,
        )
        yield found.entries
        count += len(found.entries)
        rest: Span | None = found.rest
        if rest is None:
            return
        asked = AskedSpan(after=rest.after, until_position=rest.until)
        reader = audit.operator(wanted.project_id)
    sys.stderr.write(f"{count} events, and there may be more: -n 0 shows all\n")


def _limit(arguments: argparse.Namespace) -> int:
    limit = LIMIT_DEFAULT if arguments.limit is None else int(arguments.limit)
    if limit < 0:
        raise InvalidFieldError("limit", "must be 0 or more")
    return limit


def _is_tail(arguments: argparse.Namespace) -> bool:
    """Whether the newest events are wanted, and as they came."""
    return bool(_limit(arguments)) and not arguments.after and not arguments.reverse


async def _tail(
    audit: AskAudit,
    wanted: AuditFilter,
    asked: AskedSpan,
    arguments: argparse.Namespace,
    query: dict[str, str],
) -> AsyncGenerator[Sequence[AuditEntry], None]:
    """Yield the newest events within the limit, in one batch, the newest last."""
    arguments.reverse = True
    newest = [
        entry async for page in _pages(audit, wanted, asked, arguments, query) for entry in page
    ]
    yield newest[::-1]


async def _filter(arguments: argparse.Namespace, known: KnownIds) -> AuditFilter:
    ids = {
        name: None
        if (text := getattr(arguments, name)) is None
        else await parse_short_id(text, field=name).whole(IdKind(name), known)
        for name in ("operation", "image")
    }
    return AuditFilter(
        project_id=None if arguments.project is None else project_id_of(arguments.project),
        actor=await _actor(arguments.actor, known),
        operation_id=ids["operation"],
        image_id=ids["image"],
        tag=None if arguments.tag is None else parse_tag(arguments.tag),
        types=wanted_types(arguments.type),
    )


async def _actor(text: str | None, known: KnownIds) -> str | None:
    """A worker, the operator, or a token as it is shown or by its id."""
    if text is None or text == OPERATOR or text.startswith(WORKER_PREFIX):
        return text
    typed = parse_short_id(text.rpartition("/")[2], field="actor")
    return str(await typed.whole(IdKind.TOKEN, known))


def _span(arguments: argparse.Namespace) -> AskedSpan:
    if arguments.after < 0 or (arguments.until_position or 0) < 0:
        raise InvalidFieldError("after", "a position is 0 or more")
    if arguments.follow and (arguments.until or arguments.until_position or arguments.reverse):
        raise InvalidFieldError("follow", "goes forwards without end: leave out its bounds")
    now = datetime.now(UTC)
    since, until = (
        None if (text := getattr(arguments, name)) is None else moment_of(text, field=name, now=now)
        for name in ("since", "until")
    )
    asked = AskedSpan(after=arguments.after, since=since, until=until)
    if arguments.until_position is None:
        return asked
    return AskedSpan(
        after=arguments.after,
        until_position=arguments.until_position,
        since=since,
        until=until,
    )


def _said(value: object) -> str:
    """An option as the record of the look shows it; empty for one that was not given."""
    if isinstance(value, list):
        return ",".join(value)
    return str(value) if value else ""


def _json(entry: AuditEntry) -> str:
    return orjson.dumps(cloud_event(entry)).decode() + "\n"


def _line(entry: AuditEntry, projects: Mapping[str, str]) -> str:
    """Position, time, who, what, about what, and what else there is to say, on one line.

    projects  the name of a token's project by the token's id: `demo/018d9fbc` is who
    """
    event = cloud_event(entry)
    data = {name: value for name, value in event["data"].items() if value is not None}
    text = orjson.dumps(data).decode().translate(UNSEEN)
    if len(text) > SHOWN_CHARS_MAX:
        text = text[: SHOWN_CHARS_MAX - 3] + "..."
    actor = event["actor"].translate(UNSEEN)
    if actor in projects:
        actor = f"{projects[actor]}/{actor[:SHORT_DIGITS]}"
    return (
        f"{event['id']:>8}  {moment(entry.event.recorded_at)}  {actor}  "
        f"{event['type'].removeprefix('contree.')}  {event['subject']}  {text}\n"
    )
