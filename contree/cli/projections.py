"""`contreed projections rebuild [--check]`: read models and audit index, folded anew."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from contree import bootstrap
from contree.cli import NOT_CHECKED
from contree.cli.output import add_json, show_json
from contree.config import Settings

LINE_EACH_S = 5.0
"""Between two lines of progress in a log file."""


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    projections = commands.add_parser(
        "projections",
    )
    actions = projections.add_subparsers(title="actions", metavar="ACTION", required=True)
    rebuild = actions.add_parser(
        "rebuild",
        parents=[common],
        help="fold the read models and the audit index again from the log",
    )
    rebuild.add_argument(
        "--check",
        action="store_true",
        help="change nothing: compare live with rebuilt; exit status 1 on any difference, 3 where "
        "that could not be done",
    )
    add_json(rebuild)
    rebuild.set_defaults(command=_rebuild, refused_status=NOT_CHECKED)


class _Progress:
    """Says on standard error how far it is: on a terminal in one line, else now and then."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said = self._began - LINE_EACH_S

    def __call__(self, event_count: int) -> None:
        now = time.monotonic()
        text = (
            f"{event_count:,} events, {event_count / max(now - self._began, 0.001):,.0f} a second"
        )
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
        elif now - self._said >= LINE_EACH_S:
            self._said = now
            sys.stderr.write(text + "\n")

    def end(self) -> None:
        """Leave the terminal's line free for the summary."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


async def _rebuild(settings: Settings, arguments: argparse.Namespace) -> int:
    async with bootstrap.installed_database(settings) as database:
        progress = _Progress()
        try:
            report = await bootstrap.rebuild_projections(
                database, check=arguments.check, progress=progress
            )
        finally:
            progress.end()
    if arguments.json:
        show_json(
            {
                "rebuilt": not arguments.check,
                "events": report.event_count,
                "differences": report.differences,
                "compared": report.compared,
            }
        )
        return 1 if report.differences else 0
    for line in (*report.differences, *report.compared):
        sys.stdout.write(line + "\n")
    if not arguments.check:
        summary = "rebuilt the read models; a worker folds the audit index again"
    elif report.differences:
        summary = f"{len(report.differences)} differences between live and rebuilt"
    else:
        summary = "live and rebuilt are equal"
    sys.stdout.write(f"{summary}, {report.event_count} events\n")
    return 1 if report.differences else 0
