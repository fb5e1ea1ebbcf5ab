"""`contreed dsn`: where the database of a running server is."""

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
    parser = commands.add_parser(
        "dsn",
        parents=[common],
    )
    parser.add_argument(
        "--owner", action="store_true", help="the role that may migrate, not the service's"
    )
    parser.set_defaults(command=_dsn)


async def _dsn(settings: Settings, arguments: argparse.Namespace) -> None:
    urls = bootstrap.running_database(settings)
    sys.stdout.write((urls.owner if arguments.owner else urls.app) + "\n")
