"""The command line: parse, load settings, run one command, turn errors into an exit status.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 refused or found wrong,
2 wrong usage, 3 nothing there to verify, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

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

OF_OPERATORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
}
"""What the system refuses for a reason that an operator can mend; the rest is a defect of ours."""

log = logging.getLogger(__name__)

MODULES = {
    "serve": "server",
    "api": "server",
    "worker": "worker",
    "token": "tokens",
    "project": "project",
    "operation": "operation",
    "dsn": "dsn",
    "projections": "projections",
    "audit": "audit",
    "lineage": "lineage",
    "diff": "diff",
    "log": "image_log",
    "blame": "blame",
    "replay": "replay",
    "doctor": "doctor",
}
"""Where each command is. Only the one that is asked for is imported: a worker has no web server."""


def run(argv: Sequence[str]) -> int:
    """Return the exit status of `contreed` with these arguments."""
    arguments = _parsed(argv)
    try:
        settings = load_settings(vars(arguments))
        _log_to_stderr(settings.log_level)
        return int(asyncio.run(arguments.command(settings, arguments)) or 0)
    except (ContreeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in OF_OPERATORS:
            raise
        log.debug("ended by", exc_info=True)
        print(f"contreed: {_text_of(error)}", file=sys.stderr)  # noqa: T201 - a command line
        return 1
    except KeyboardInterrupt:
        return 130


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; what stands after `--` are paths, wherever the options were (argparse loses those)."""
    parser = _parser(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    if end < len(argv):
        if "paths" not in arguments:
            parser.error(f"unrecognized arguments: {' '.join(argv[end:])}")
        arguments.paths = [*arguments.paths, *argv[end + 1 :]]
    return arguments


def _text_of(error: ContreeError | OSError) -> str:
    """What an operator can act on: the system's own errors name the file, and what to do."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    text = f"'{error.filename}': {error.strerror}"
    if isinstance(error, PermissionError):
        text += "; be the user who owns it, or choose another --data-dir"
    return text


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of the command that `argv` begins with; of all when it begins with none."""
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
    parser.add_argument("--version", action="version", version=f"contreed {version('contree')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = MODULES.get(argv[0]) if argv else None
    for name in dict.fromkeys([asked] if asked else MODULES.values()):
        import_module(f"contree.cli.{name}").add_commands(commands, common)
    return parser


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.captureWarnings(capture=True)
