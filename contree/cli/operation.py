"""`contreed operation list|show|cancel`: what is queued and runs, of all projects, and its end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from contree import bootstrap
from contree.app.access import Operator
from contree.app.cancel_operation import CancelOperation
from contree.app.reads import OperationSummary, Page
from contree.bootstrap import Core
from contree.config import Settings
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.operation import Status

UNDER_WAY = (Status.EXECUTING, Status.ASSIGNED, Status.PENDING)
PAGE = 1000


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    operation = commands.add_parser("operation", help="what is queued and runs, and how to stop it")
    actions = operation.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", parents=[common], help="operations that have not ended, of all projects"
    )
    listing.add_argument("--project", metavar="NAME", help="of this one alone")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", parents=[common], help="one operation, ended or not")
    show.set_defaults(command=_show)
    cancel = actions.add_parser(
        "cancel",
        parents=[common],
        help="stop it: at once when it is queued, else its worker does, within seconds",
    )
    cancel.set_defaults(command=_cancel)
    for parser in (show, cancel):
        parser.add_argument("operation", metavar="OPERATION", help="its UUID")


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
        for project in projects:
            for status in UNDER_WAY:
                async for row in _rows(core, project.project_id, status):
                    sys.stdout.write(
                        f"{row.operation_id}  {project.name}  {row.kind.value}  {status.value}  "
                        f"{_moment(row.created_at)}  {row.worker or '-'}\n"
                    )


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
    operation_id = _uuid(arguments.operation)
    async with _core(settings) as core:
        project_id = await _project_of(core, operation_id)
        row = await core.operations.get(project_id, operation_id)
        names = {one.project_id: one.name for one in await core.projects.list()}
    if row is None:
        raise NotFoundError("operation", operation_id)
    sys.stdout.write(
        f"operation  {row.operation_id}\n"
        f"project    {names[row.project_id]}\n"
        f"kind       {row.kind.value}\n"
        f"status     {row.status.value}\n"
        f"requested  {_moment(row.created_at)}\n"
        f"begun      {_moment(row.started_at)}\n"
        f"ended      {_moment(row.finished_at)}\n"
        f"worker     {row.worker or '-'}\n"
        f"image      {row.image_id or '-'}\n"
        f"result     {row.result_image_id or '-'}\n"
        f"error      {_shown(row.error or '-')}\n"
    )


async def _cancel(settings: Settings, arguments: argparse.Namespace) -> None:
    operation_id = _uuid(arguments.operation)
    async with _core(settings) as core:
        operator = Operator(
            project_id=await _project_of(core, operation_id), request_id=str(core.ids.new_id())
        )
        await CancelOperation(log=core.log, clock=core.clock).cancel(operator, operation_id)


async def _project_of(core: Core, operation_id: UUID) -> UUID:
    project_id = await core.operations.project_of(operation_id)
    if project_id is None:
        raise NotFoundError("operation", operation_id)
    return project_id


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFieldError("OPERATION", f"'{text}' is not a UUID") from None


def _shown(text: str) -> str:
    """An error may quote what a guest or a registry says: nothing of it reaches a terminal raw."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _moment(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
