"""The command line: parse, load settings, run one command, turn errors into an exit status.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 refused or found wrong,
2 wrong usage, 3 not checked (of commands that check something), 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from typing import Any

from contree.domain.errors import ContreeError

DESCRIPTION = """\
Contree: execution environments that branch like Git.

Start with `contreed serve`, make a token with `contreed token create --project NAME`, and point
any ConTree client at the server. `contreed doctor` says whether this machine can run guests.
"""

EPILOGUE = """\
Exit status: 0 done, 1 refused or found wrong, 2 wrong usage, 3 could not be checked (audit verify,
replay, projections rebuild --check), 130 interrupted.

Every option can also be set in a TOML file (--config) or as CONTREED_<OPTION> in the environment,
e.g. CONTREED_DATA_DIR=/srv/contree. docs/operations.md lists all settings.
"""

OF_OPERATORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
}
"""What the system refuses for a reason that an operator can mend; the rest is a defect of ours."""

REFUSED, WRONG_USAGE, NOT_CHECKED, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses. A command that checks something ends with NOT_CHECKED where it could not, set as
`refused_status` of its parser: a monitor must not take an outage for a forgery.
"""

log = logging.getLogger(__name__)

COMMANDS = {
    "serve": ("server", "API, worker and embedded PostgreSQL on this machine"),
    "api": ("server", "the API only; needs a database URL"),
    "worker": ("worker", "one worker; needs a database URL"),
    "status": ("status", "how the deployment is: server, queue, workers, disk, accelerator"),
    "doctor": ("doctor", "check this machine, by booting a probe guest too"),
    "token": ("tokens", "make, list and revoke API tokens"),
    "project": ("project", "legal hold, retention and erasure of content"),
    "operation": ("operation", "what is queued and runs, and how to stop it"),
    "lineage": ("lineage", "draw where an image comes from and what came of it"),
    "diff": ("diff", "what differs between two images, as git diff shows it"),
    "log": ("image_log", "which runs changed an image or a path of it, newest first"),
    "blame": ("blame", "which run wrote each line of a file, or last changed each entry"),
    "replay": ("replay", "run a recorded command again and report what differs"),
    "audit": ("audit", "ask the log, prove it, check what was proven"),
    "projections": ("projections", "the read models behind the API"),
    "dsn": ("dsn", "print the DSN of the embedded database while it runs"),
}
"""Where each command is, and what it is for. Only the one that is asked for is imported: a worker
has no web server, and help is fast.
"""


def run(argv: Sequence[str]) -> int:
    """Return the exit status of `contreed` with these arguments."""
    if not argv:
        command_line(argv).print_help(sys.stderr)
        return WRONG_USAGE
    arguments = parsed(argv)
    from contree.config import load_settings  # only now: help needs none of it

    try:
        settings = load_settings(vars(arguments))
        _log_to_stderr(settings.log_level, settings.log_format)
        return int(asyncio.run(arguments.command(settings, arguments)) or 0)
    except (ContreeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in OF_OPERATORS:
            raise
        log.debug("ended by", exc_info=True)
        print(f"contreed: {_text_of(error)}", file=sys.stderr)  # noqa: T201 - a command line
        return int(getattr(arguments, "refused_status", REFUSED))
    except KeyboardInterrupt:
        return INTERRUPTED


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; what stands after `--` are paths, wherever the options were (argparse loses those)."""
    parser = command_line(argv)
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


def command_line(argv: Sequence[str] | None) -> argparse.ArgumentParser:
    """Return a parser of the command that `argv` begins with.

    When it begins with none, the commands have no options yet; with None, all have theirs.
    """
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file with settings")
    common.add_argument("--data-dir", metavar="DIR", help="where everything on this host lives")
    common.add_argument("--database-url", metavar="URL", help="PostgreSQL; default: embedded")
    common.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    common.add_argument("--log-format", metavar="FORMAT", help="text or json; default text")
    parser = _Command(
        prog="contreed",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"contreed {version('contree')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    if argv is None or (argv and argv[0] in COMMANDS):
        names = COMMANDS if argv is None else argv[:1]
        for module in dict.fromkeys(COMMANDS[name][0] for name in names):
            import_module(f"contree.cli.{module}").add_commands(commands, common)
    else:
        for name, (_, purpose) in COMMANDS.items():
            commands.add_parser(name, help=purpose)
    return parser


class _Command(argparse.ArgumentParser):
    """Its subcommands are of this class too: each shows its own usage for what it does not know."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class _JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_to_stderr(level: str, log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(capture=True)
