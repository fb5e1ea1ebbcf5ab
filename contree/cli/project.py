"""`contreed project list|show|hold|release|retention|erase`: what becomes of its content."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from contree import bootstrap
from contree.app.access import OPERATOR
from contree.app.content.keep_projects import KeepProjects
from contree.app.content.remove_content import Outcome, RemoveContent
from contree.app.reads import ProjectRow
from contree.bootstrap import Core
from contree.cli.output import add_json, moment, show_json, show_list, show_record
from contree.config import Settings
from contree.domain.errors import InvalidFieldError

FOREVER = "forever"
ERASE_REASON = "erasure was asked for"
CLEAR_WAIT_S = 30.0
"""How long `erase` waits for what runs to be stopped; a worker's duty goes on after that."""
CLEAR_POLL_S = 0.5


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    project = commands.add_parser(
        "project",
    )
    actions = project.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common], help="all projects")
    add_json(listing)
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", parents=[common], help="what becomes of its content")
    add_json(show)
    show.set_defaults(command=_show)
    hold = actions.add_parser("hold", parents=[common], help="keep everything, until released")
    hold.add_argument("--reason", required=True, metavar="TEXT", help="recorded, and shown")
    hold.set_defaults(command=_hold)
    release = actions.add_parser("release", parents=[common], help="end the legal hold")
    release.set_defaults(command=_release)
    retention = actions.add_parser(
        "retention", parents=[common], help="how long outputs and journals are kept"
    )
    retention.add_argument(
        "--days", required=True, metavar=f"N|{FOREVER}", help="after the end of the operation"
    )
    retention.set_defaults(command=_retention)
    erase = actions.add_parser(
        "erase",
        parents=[common],
        help="destroy its data key and revoke its tokens: nothing brings the content back",
    )
    erase.add_argument("--confirm", required=True, metavar="NAME", help="the name once more")
    erase.add_argument("--reason", default=ERASE_REASON, metavar="TEXT", help="recorded")
    erase.set_defaults(command=_erase)
    for parser in (show, hold, release, retention, erase):
        parser.add_argument("name", metavar="NAME", help="of the project")


@asynccontextmanager
async def _core(settings: Settings) -> AsyncIterator[Core]:
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        yield core


def _keep(core: Core) -> KeepProjects:
    return KeepProjects(
        log=core.log,
        projects=core.projects,
        tokens=core.tokens,
        clock=core.clock,
        ids=core.ids,
    )


async def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    async with _core(settings) as core:
        rows = await core.projects.list()
    if arguments.json:
        show_json([_value(row) for row in rows])
    else:
        table = [
            {"id": row.project_id, "project": row.name, "content": ", ".join(_state(row))}
            for row in rows
        ]
        show_list(("id", "project", "content"), table, as_json=False)


async def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    async with _core(settings) as core:
        row = await _keep(core).row(arguments.name)
    if arguments.json:
        show_json(_value(row))
    else:
        record = {
            "project": row.name,
            "id": row.project_id,
            "created": row.created_at,
            "legal hold": row.hold_reason or "none",
            "retention": _retention_text(row),
            "expired": _expired_text(row),
            "erased": _erased_text(row),
        }
        show_record(record, as_json=False)


def _value(row: ProjectRow) -> dict[str, Any]:
    """A project in JSON: what `project list` and `show` tell."""
    return {
        "project": row.name,
        "id": row.project_id,
        "created": row.created_at,
        "hold_reason": row.hold_reason,
        "retention_days": row.retention_days,
        "expired_before": row.content_cut,
        "erased": row.erased_at,
        "cleared": row.cleared_at,
    }


async def _hold(settings: Settings, arguments: argparse.Namespace) -> None:
    async with _core(settings) as core:
        await _keep(core).hold(arguments.name, reason=arguments.reason)


async def _release(settings: Settings, arguments: argparse.Namespace) -> None:
    async with _core(settings) as core:
        await _keep(core).release(arguments.name)


async def _retention(settings: Settings, arguments: argparse.Namespace) -> None:
    days = None
    if arguments.days != FOREVER:
        if not arguments.days.isascii() or not arguments.days.isdecimal():
            raise InvalidFieldError("days", f"'{arguments.days}' is no number, nor '{FOREVER}'")
        days = int(arguments.days)
    async with _core(settings) as core:
        await _keep(core).set_retention(arguments.name, days=days)


async def _erase(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.confirm != arguments.name:
        raise InvalidFieldError("confirm", f"repeat the name, '{arguments.name}', to erase it")
    async with _core(settings) as core:
        keep = _keep(core)
        await keep.erase(arguments.name, reason=arguments.reason)
        sys.stdout.write(
            f"erased the content of project '{arguments.name}': its data key is destroyed, "
            "its tokens are revoked\n"
        )
        row = await keep.row(arguments.name)
        outcome = await _cleared(core, row)
    if outcome.is_complete:
        sys.stdout.write(
            f"removed from disk: {outcome.removed.blob_count} blobs "
            f"({outcome.removed.blob_bytes} bytes), {outcome.journal_count} journals, "
            f"{outcome.layers.layer_count} layers ({outcome.layers.layer_bytes} bytes)\n"
        )
    else:
        sys.stdout.write(
            "a worker removes what is left on disk once no operation may need it any more\n"
        )


async def _cleared(core: Core, row: ProjectRow) -> Outcome:
    """Remove what is on disk as soon as nothing runs any more, if that is soon."""
    removal = RemoveContent(core, actor=OPERATOR)
    deadline = time.monotonic() + CLEAR_WAIT_S
    outcome = await removal.clear(row.project_id)
    while not outcome.is_complete and time.monotonic() < deadline:
        await asyncio.sleep(CLEAR_POLL_S)
        outcome = await removal.clear(row.project_id)
    return outcome


def _state(row: ProjectRow) -> list[str]:
    if row.erased_at is not None:
        return [f"erased {moment(row.erased_at)}"]
    held = [] if row.hold_reason is None else ["legal hold"]
    return [*held, f"content kept {_retention_text(row)}"]


def _retention_text(row: ProjectRow) -> str:
    return FOREVER if row.retention_days is None else f"{row.retention_days} days"


def _expired_text(row: ProjectRow) -> str:
    if row.content_cut is None:
        return "nothing"
    going = "" if row.swept_cut == row.content_cut else ", still being removed"
    return f"content of operations that ended before {moment(row.content_cut)}{going}"


def _erased_text(row: ProjectRow) -> str:
    if row.erased_at is None:
        return "no"
    if row.cleared_at is None:
        return f"{moment(row.erased_at)}, what is left on disk is still being removed"
    return f"{moment(row.erased_at)}, removed from disk {moment(row.cleared_at)}"
