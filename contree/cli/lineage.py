"""`contreed lineage IMAGE`: where an image comes from and what came out of it, as a drawing."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any
from uuid import UUID

from contree import bootstrap
from contree.app.audit.lineage_tree import draw_lineage
from contree.app.short_ids import IdKind, parse_short_id
from contree.cli.output import add_json, show_json
from contree.config import Settings
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.project import project_id_of
from contree.domain.tag import parse_tag
from contree.worker.duties import duties_kept

TAG_PREFIX = "tag:"
SHOWN_MAX = 1_000_000


def add_commands(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    lineage = commands.add_parser(
        "lineage",
        parents=[common],
    )
    lineage.add_argument(
        "image", metavar="IMAGE", help="its id, how it begins, or tag:NAME with --project"
    )
    lineage.add_argument("--project", metavar="NAME")
    lineage.add_argument("--depth", type=int, default=100, metavar="N", help="default 100")
    lineage.add_argument("--limit", type=int, default=1000, metavar="N", help="default 1000")
    lineage.add_argument("--whole-ids", action="store_true", help="not the beginning of each")
    add_json(lineage)
    lineage.set_defaults(command=_lineage)


async def _lineage(settings: Settings, arguments: argparse.Namespace) -> None:
    for name in ("depth", "limit"):
        if not 1 <= getattr(arguments, name) <= SHOWN_MAX:
            raise InvalidFieldError(name, f"must be 1 to {SHOWN_MAX}")
    project_id = None if arguments.project is None else project_id_of(arguments.project)
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
        duties_kept([core.history.follow], core.leadership),
    ):
        image_id = await _image_id(core, arguments.image, project_id)
        audit = core.history.ask
        found = await audit.lineage(
            audit.operator(project_id),
            project_id,
            image_id,
            depth=arguments.depth,
            limit=arguments.limit,
            query={"image": arguments.image},
        )
    if arguments.json:
        from contree.http.audit.history import lineage_value  # and a web server with it

        show_json(lineage_value(found))
        return
    # Into a pipe it is written whole, whatever terminal there is.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = draw_lineage(found, columns=columns, whole_ids=arguments.whole_ids)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


async def _image_id(core: bootstrap.Core, text: str, project_id: UUID | None) -> UUID:
    if not text.startswith(TAG_PREFIX):
        return await parse_short_id(text, field="IMAGE").whole(IdKind.IMAGE, core.known_ids)
    if project_id is None:
        raise InvalidFieldError("project", "is missing: tags belong to a project, name it")
    tag = parse_tag(text.removeprefix(TAG_PREFIX), field="IMAGE")
    row = await core.images.by_tag(project_id, tag)
    if row is None:
        raise NotFoundError("tag", tag)
    return row.image_id
