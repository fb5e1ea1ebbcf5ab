"""`contreed log IMAGE [-- PATH…]`: which runs made an image, as `git log` shows commits."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from contree import bootstrap
from contree.app.audit.lineage_tree import operation_text
from contree.app.images.git_names import quoted
from contree.app.images.image_comparison import ChangeKind, ImageChange
from contree.app.images.image_log import LogEntry, LogPlace, ShowLog
from contree.cli.diff import guest_paths
from contree.cli.image_reference import HELP, Referred, readable
from contree.cli.terminal import YELLOW, shown
from contree.config import Settings
from contree.http.images.log_value import log_entry_value
from contree.http.json_text import json_bytes

_PAGE: Final = 50
_AS_IS: Final = ("utf-8", "surrogateescape")
_LETTERS: Final = {
    ChangeKind.ADDED: "A",
    ChangeKind.REMOVED: "D",
    ChangeKind.MODIFIED: "M",
    ChangeKind.RENAMED: "R",
    ChangeKind.TYPE: "T",
    ChangeKind.METADATA: "m",
}


def add_commands(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    log = commands.add_parser(
        "log",
        parents=[common],
        description="With paths: only what changed one of them. No guest is started.",
    )
    log.add_argument("image", metavar="IMAGE", help=HELP)
    log.add_argument("paths", nargs="*", metavar="PATH", help="only what changed these, or below")
    log.add_argument("--project", metavar="NAME")
    log.add_argument("-n", "--limit", type=int, metavar="N", help="so many images at the most")
    log.add_argument("--follow", action="store_true", help="a renamed file under its older names")
    log.add_argument("--oneline", action="store_true", help="a line an image")
    log.add_argument("--graph", action="store_true", help="with the line that joins them")
    log.add_argument("--json", action="store_true", help="one entry a line")
    log.add_argument("--no-pager", action="store_true")
    log.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    log.set_defaults(command=_log)


async def _log(settings: Settings, arguments: argparse.Namespace) -> None:
    paths = guest_paths(arguments.paths) if arguments.paths else ()
    async with (
        bootstrap.installed_database(settings) as database,
        bootstrap.core(settings, database) as core,
    ):
        image = await readable(core, arguments.image, arguments.project)
        entries = _entries(bootstrap.show_log(core), image, paths, arguments)
        with shown(_colour, colour=arguments.color, pager=not arguments.no_pager) as write:
            async with aclosing(entries):
                async for entry in entries:
                    write(_text(entry, arguments))


async def _entries(
    log: ShowLog, image: Referred, paths: tuple[str, ...], arguments: argparse.Namespace
) -> AsyncGenerator[LogEntry, None]:
    place: LogPlace | None = LogPlace(image_id=image.image_id, paths=paths)
    left = arguments.limit
    while place is not None and left != 0:
        limit = _PAGE if left is None else min(left, _PAGE)
        page = await log.page(image.project_id, place, follow=arguments.follow, limit=limit)
        for entry in page.entries:
            yield entry
        left = None if left is None else max(0, left - len(page.entries))
        place = page.rest


def _text(entry: LogEntry, arguments: argparse.Namespace) -> bytes:
    if arguments.json:
        return json_bytes(log_entry_value(entry)) + b"\n"
    first, *rest = _one_line(entry) if arguments.oneline else _paragraph(entry)
    if not arguments.graph:
        return b"".join(line + b"\n" for line in (first, *rest))
    is_last = entry.image.parent_image_id is None
    lead = b"  " if is_last else b"| "
    return b"* " + first + b"\n" + b"".join((lead + line).rstrip() + b"\n" for line in rest)


def _one_line(entry: LogEntry) -> list[bytes]:
    tags = f" ({', '.join(entry.tags)})" if entry.tags else ""
    return [f"{str(entry.image.image_id)[:8]}{tags} {_made(entry)}".encode(*_AS_IS)]


def _paragraph(entry: LogEntry) -> list[bytes]:
    tags = f" ({', '.join(entry.tags)})" if entry.tags else ""
    lines = [
        f"image {entry.image.image_id}{tags}",
        f"Operation: {entry.image.operation_id}",
        f"Actor:     {entry.actor or '-'}",
        f"Date:      {entry.image.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "",
        f"    {_made(entry)}",
        "",
    ]
    if entry.changed is not None and not entry.changes:
        counts = [f"{n} {kind.value}" for kind, n in entry.changed.counts.items() if n]
        lines += [f" {', '.join(counts) or 'no file changed'}", ""]
    changes = [_change(change) for change in entry.changes]
    end = [b""] if changes else []
    return [*(line.encode(*_AS_IS) for line in lines), *changes, *end]


def _made(entry: LogEntry) -> str:
    return "-" if entry.operation is None else operation_text(entry.operation)


def _change(change: ImageChange) -> bytes:
    names = [name for name in (change.from_path, change.path) if name is not None]
    raw = [quoted(name.encode(*_AS_IS)) for name in names]
    return b"\t".join([f" {_LETTERS[change.kind]}".encode(), *raw])


def _colour(line: bytes) -> bytes | None:
    return YELLOW if line.lstrip(b"* ").startswith(b"image ") else None
