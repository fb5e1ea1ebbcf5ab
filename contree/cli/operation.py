"""`contreed operation list|show|cancel`: what is queued and runs, of all projects, and its end."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from contree import bootstrap
from contree.app.access import Operator
from contree.app.cancel_operation import CancelOperation
from contree.app.reads import OperationSummary, Page
from contree.app.short_ids import IdKind, parse_short_id
from contree.bootstrap import Core
from contree.cli.output import add_json, show_list, show_record
from contree.config import Settings
from contree.domain.errors import NotFoundError
from contree.domain.operation import Status

UNDER_WAY = (Status.EXECUTING, Status.ASSIGNED, Status.PENDING)
PAGE = 1000
COLUMNS = ("operation", "project", "kind", "status", "requested", "worker")


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    operation = commands.add_parser(
        "operation",
    )
    actions = operation.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", parents=[common], help="operations that have not ended, of all projects"
    )
    listing.add_argument("--project", metavar="NAME", help="of this one alone")
    add_json(listing)
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", parents=[common], help="one operation, ended or not")
    add_json(show)
    show.set_defaults(command=_show)
    cancel = actions.add_parser(
        "cancel",
        parents=[common],
        help="stop it: at once when it is queued, else its worker does, within seconds",
    )
    cancel.set_defaults(command=_cancel)
    for parser in (show, cancel):
        parser.add_argument("operation", metavar="OPERATION", help="its id, or how it begins")


@asynccontextmanager
async def _core(settings: Settings) -> AsyncIterator[Core]:
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        yield core


async def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    async with _core(settings) as core:
        projects = await core.projects.list()
        if arguments.project is not None:
            projects = [one for one in projects if one.name == arguments.project]
            if not projects:
                raise NotFoundError("project", arguments.project)
        found = [
            {
                "operation": row.operation_id,
                "project": project.name,
                "kind": row.kind,
                "status": status,
                "requested": row.created_at,
                "worker": row.worker,
            }
            for project in projects
            for status in UNDER_WAY
            async for row in _rows(core, project.project_id, status)
        ]
    show_list(COLUMNS, found, as_json=arguments.json)


async def _rows(core: Core, project_id: UUID, status: Status) -> AsyncIterator[OperationSummary]:
    """Newest first. What comes to an end between two pages may hide another: ask again."""
    offset = 0
    while True:
        page = Page(limit=PAGE, offset=offset)
        rows = await core.operations.list(project_id, page, status=status)
        for row in rows:
            yield row
        if len(rows) < PAGE:
            return
        offset += PAGE


async def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    typed = parse_short_id(arguments.operation, field="OPERATION")
    async with _core(settings) as core:
        operation_id = await typed.whole(IdKind.OPERATION, core.known_ids)
        project_id = await _project_of(core, operation_id)
        row = await core.operations.get(project_id, operation_id)
        names = {one.project_id: one.name for one in await core.projects.list()}
    if row is None:
        raise NotFoundError("operation", operation_id)
    record = {
        "operation": row.operation_id,
        "project": names[row.project_id],
        "kind": row.kind,
        "status": row.status,
        "requested": row.created_at,
        "begun": row.started_at,
        "ended": row.finished_at,
        "worker": row.worker,
        "image": row.image_id,
        "result": row.result_image_id,
        "error": row.error,
    }
    show_record(record, as_json=arguments.json)


async def _cancel(settings: Settings, arguments: argparse.Namespace) -> None:
    typed = parse_short_id(arguments.operation, field="OPERATION")
    async with _core(settings) as core:
        operation_id = await typed.whole(IdKind.OPERATION, core.known_ids)
        operator = Operator(
            project_id=await _project_of(core, operation_id), request_id=str(core.ids.new_id())
        )
        await CancelOperation(log=core.log, clock=core.clock).cancel(operator, operation_id)


async def _project_of(core: Core, operation_id: UUID) -> UUID:
    project_id = await core.operations.project_of(operation_id)
    if project_id is None:
        raise NotFoundError("operation", operation_id)
    return project_id
