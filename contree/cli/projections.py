"""`contreed projections rebuild [--check]`: the read models, folded again from the log."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from contree import bootstrap
from contree.config import Settings


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    projections = commands.add_parser("projections", help="the read models behind the API")
    actions = projections.add_subparsers(title="actions", metavar="ACTION", required=True)
    rebuild = actions.add_parser(
        "rebuild", parents=[common], help="drop the read models and replay the log"
    )
    rebuild.add_argument(
        "--check",
        action="store_true",
        help="change nothing: compare live with rebuilt, exit 1 on any difference",
    )
    rebuild.set_defaults(command=_rebuild)


async def _rebuild(settings: Settings, arguments: argparse.Namespace) -> int:
    async with bootstrap.database(settings) as database:
        report = await bootstrap.rebuild_projections(database, check=arguments.check)
    for line in report.differences:
        sys.stdout.write(line + "\n")
    if not arguments.check:
        summary = "rebuilt the read models"
    elif report.differences:
        summary = f"{len(report.differences)} differences between live and rebuilt read models"
    else:
        summary = "live and rebuilt read models are equal"
    sys.stdout.write(f"{summary}, {report.event_count} events\n")
    return 1 if report.differences else 0
