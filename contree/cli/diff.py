"""`contreed diff A B [-- PATH…]`: what differs between two images, as `git diff` shows it."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from contree import bootstrap
from contree.app.images.compare_images import CompareImages, DiffOptions, ImagePair
from contree.app.images.diff_text import name_status_text, stat_text
from contree.cli.image_reference import HELP, readable
from contree.cli.terminal import BOLD, CYAN, GREEN, RED, shown
from contree.config import Settings
from contree.domain.errors import InvalidFieldError
from contree.domain.guest_path import parse_guest_path
from contree.http.images.diff_value import ndjson_text

_COLOURS: Final = {
    b"diff --git ": BOLD,
    b"index ": BOLD,
    b"--- ": BOLD,
    b"+++ ": BOLD,
    b"@@ ": CYAN,
    b"-": RED,
    b"+": GREEN,
}


def add_commands(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    diff = commands.add_parser(
        "diff",
        parents=[common],
        description="Exit status 0, with --exit-code 1 when anything differs. No guest is started.",
    )
    diff.add_argument("image", metavar="A", help=HELP)
    diff.add_argument("other_image", metavar="B")
    diff.add_argument("paths", nargs="*", metavar="PATH", help="only these, and what is below")
    diff.add_argument("--project", metavar="NAME")
    form = diff.add_mutually_exclusive_group()
    for name, about in {
        "patch": "a patch that git apply takes (default)",
        "stat": "counts by directory",
        "name-status": "a letter and a name a line",
        "json": "one change a line, and the summary last",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=about)
    diff.add_argument("-z", action="store_true", help="with --name-status: NUL after each name")
    diff.add_argument("--binary", action="store_true", help="binary files in the patch too")
    diff.add_argument("--metadata", action="store_true", help="also what differs in time alone")
    diff.add_argument("--no-renames", action="store_true")
    diff.add_argument("--exit-code", action="store_true")
    diff.add_argument("--no-pager", action="store_true")
    diff.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    diff.set_defaults(command=_diff, form="patch")


async def _diff(settings: Settings, arguments: argparse.Namespace) -> int:
    paths = guest_paths(arguments.paths)
    options = DiffOptions(paths=paths, times=arguments.metadata, renames=not arguments.no_renames)
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        one = await readable(core, arguments.image, arguments.project)
        other = await readable(core, arguments.other_image, arguments.project)
        if one.project_id != other.project_id:
            raise InvalidFieldError("B", "is an image of another project than A")
        compare = bootstrap.compare_images(core)
        pair = await compare.pair(one.project_id, one.image_id, other.image_id)
        text = _text(compare, pair, options, arguments)
        with shown(_colour, colour=arguments.color, pager=not arguments.no_pager) as write:
            async with aclosing(text):
                async for piece in text:
                    write(piece)
        if not arguments.exit_code:
            return 0
        return int(bool((await compare.page(pair, options, limit=1)).changes))


def guest_paths(texts: list[str]) -> tuple[str, ...]:
    """Return paths inside an image, absolute; a relative one starts at the root. All when none.

    Raises InvalidFieldError.
    """
    absolute = [text if text.startswith("/") else f"/{text}" for text in texts or ["/"]]
    return tuple(parse_guest_path(text, field="PATH") for text in absolute)


def _text(
    compare: CompareImages, pair: ImagePair, options: DiffOptions, arguments: argparse.Namespace
) -> AsyncGenerator[bytes, None]:
    match arguments.form:
        case "stat":
            return stat_text(compare, pair, options)
        case "name-status":
            return name_status_text(compare, pair, options, nul=arguments.z)
        case "json":
            return ndjson_text(compare, pair, options)
        case _:
            return compare.patch(pair, options, binary=arguments.binary)


def _colour(line: bytes) -> bytes | None:
    return next((colour for start, colour in _COLOURS.items() if line.startswith(start)), None)
