"""The command line: parse, load settings, run one command, turn errors into an exit status.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 refused or found wrong,
2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from contree.cli import audit, dsn, lineage, project, projections, replay, server, tokens
from contree.cli import doctor as doctor_command
from contree.config import load_settings
from contree.domain.errors import ContreeError

DESCRIPTION = """\
Contree: execution environments that branch like Git.

Start with `contreed serve`, make a token with `contreed token create --project NAME`, and point
any ConTree client at the server. `contreed doctor` says whether this machine can run guests.
"""

EPILOGUE = """\
Every option can also be set in a TOML file (--config) or as CONTREED_<OPTION> in the environment,
e.g. CONTREED_DATA_DIR=/srv/contree. docs/operations.md lists all settings.
"""


def run(argv: Sequence[str]) -> int:
    """Return the exit status of `contreed` with these arguments."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(vars(arguments))
        _log_to_stderr(settings.log_level)
        return int(asyncio.run(arguments.command(settings, arguments)) or 0)
    except ContreeError as error:
        print(f"contreed: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file with settings")
    common.add_argument("--data-dir", metavar="DIR", help="where everything on this host lives")
    common.add_argument("--database-url", metavar="URL", help="PostgreSQL; default: embedded")
    common.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    parser = argparse.ArgumentParser(
        prog="contreed",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    server.add_commands(commands, common)
    tokens.add_commands(commands, common)
    project.add_commands(commands, common)
    dsn.add_commands(commands, common)
    projections.add_commands(commands, common)
    audit.add_commands(commands, common)
    lineage.add_commands(commands, common)
    replay.add_commands(commands, common)
    doctor_command.add_commands(commands, common)
    return parser


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.captureWarnings(capture=True)
