"""`contreed blame IMAGE PATH`: which run wrote each line, as `git blame` shows commits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from contree import bootstrap
from contree.app.audit.lineage_tree import operation_text
from contree.app.images.ancestry import LineImage
from contree.app.images.blame import Blamed
from contree.app.images.git_names import quoted
from contree.app.images.image_log import made_by
from contree.cli.diff import guest_paths
from contree.cli.image_reference import HELP, readable
from contree.cli.terminal import shown
from contree.config import Settings
from contree.http.images.blame import blame_value
from contree.http.json_text import json_bytes

_COMMAND_CHARS: Final = 24
_AS_IS: Final = ("utf-8", "surrogateescape")


def add_commands(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    blame = commands.add_parser(
        "blame",
        parents=[common],
        help="which run wrote each line of a file, or last changed each entry of a directory",
    )
    blame.add_argument("image", metavar="IMAGE", help=HELP)
    blame.add_argument("path", metavar="PATH", help="a text file, or a directory")
    blame.add_argument("--project", metavar="NAME")
    blame.add_argument("--json", action="store_true", help="one JSON document")
    blame.add_argument("--no-pager", action="store_true")
    blame.set_defaults(command=_blame)


async def _blame(settings: Settings, arguments: argparse.Namespace) -> None:
    (path,) = guest_paths([arguments.path])
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        image = await readable(core, arguments.image, arguments.project)
        found = await bootstrap.blame(core).of(image.project_id, image.image_id, path)
        made: dict[UUID, str] = {}
        images = [*(some.image for some in found.lines), *(one.image for one in found.children)]
        for one in {image.operation_id for image in images}:
            row = await core.operations.get(image.project_id, one)
            made[one] = "-" if row is None else operation_text(made_by(row))
    with shown(lambda _: None, pager=not arguments.no_pager) as write:
        if arguments.json:
            write(json_bytes(blame_value(found)) + b"\n")
            return
        for line in _text(found, made):
            write(line)


def _text(found: Blamed, made: Mapping[UUID, str]) -> Iterator[bytes]:
    last = found.lines[-1].line + len(found.lines[-1].texts) - 1 if found.lines else 0
    for some in found.lines:
        lead = _lead(some.image, made)
        for number, text in enumerate(some.texts, some.line):
            shown_text = text if text.endswith(b"\n") else text + b"\n"
            yield f"{lead} {number:>{len(str(last))}}) ".encode(*_AS_IS) + shown_text
    for child in found.children:
        name = quoted(child.path.encode(*_AS_IS))
        yield f"{_lead(child.image, made)} ".encode(*_AS_IS) + name + b"\n"


def _lead(image: LineImage, made: Mapping[UUID, str]) -> str:
    command = made[image.operation_id]
    return (
        f"{str(image.image_id)[:8]} ({image.created_at:%Y-%m-%d %H:%M:%S} "
        f"{command[:_COMMAND_CHARS]:<{_COMMAND_CHARS}})"
    )
