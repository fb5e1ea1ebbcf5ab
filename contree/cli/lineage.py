"""`contreed lineage IMAGE`: where an image comes from and what came out of it, as a drawing."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

from contree import bootstrap
from contree.app.audit.lineage_tree import draw_lineage
from contree.cli.image_reference import HELP, referred
from contree.cli.output import add_json, show_json
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.domain.project import project_id_of
from contree.worker.duties import duties_kept

SHOWN_MAX = 1_000_000


def add_commands(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    lineage = commands.add_parser(
        "lineage",
        parents=[common],
    )
    lineage.add_argument("image", metavar="IMAGE", help=HELP)
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
        image = await referred(core, arguments.image, arguments.project)
        audit = core.history.ask
        found = await audit.lineage(
            audit.operator(project_id),
            project_id,
            image.image_id,
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
