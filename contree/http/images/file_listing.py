"""Directory entries of an image, as JSON values and as the text that `ls -l` would print."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from contree.app.images.layer_store import EntryType, FileEntry

TYPE_BITS = {
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.REGULAR: stat.S_IFREG,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
}

BLOCK_BYTES = 1024
RECENT = timedelta(days=182)
"""`ls` shows the time of day of what is younger than half a year, else the year."""

CONTROL_CHARACTERS = dict.fromkeys([*range(32), *range(127, 160)], "?")
"""A name may hold escape sequences; a listing must not send them to a terminal (`ls -q`)."""


def file_item(entry: FileEntry) -> dict[str, Any]:
    """Return a FileItem: `path` is the bare name, `mode` the full st_mode."""
    type_ = entry.type
    return {
        "path": entry.name,
        "size": entry.size_bytes,
        "owner": entry.owner,
        "group": entry.group,
        "uid": entry.uid,
        "gid": entry.gid,
        "mode": TYPE_BITS[type_] | entry.mode,
        "mtime": entry.mtime_s,
        "nlink": entry.nlink,
        "is_dir": type_ is EntryType.DIRECTORY,
        "is_regular": type_ is EntryType.REGULAR,
        "is_symlink": type_ is EntryType.SYMLINK,
        "is_socket": type_ is EntryType.SOCKET,
        "is_fifo": type_ is EntryType.FIFO,
        "symlink_to": entry.symlink_to,
    }


def listing_text(entries: Sequence[FileEntry], *, now: datetime) -> bytes:
    """Return `total` (KiB) and one line an entry; names that are not UTF-8 keep their bytes."""
    total = sum(-(-entry.size_bytes // BLOCK_BYTES) for entry in entries)
    rows = [_columns(entry, now=now) for entry in entries]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    lines = [f"total {total}"]
    for mode, nlink, owner, group, size, when, name in rows:
        lines.append(
            f"{mode} {nlink:>{widths[1]}} {owner:<{widths[2]}} {group:<{widths[3]}} "
            f"{size:>{widths[4]}} {when} {name}"
        )
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _columns(entry: FileEntry, *, now: datetime) -> tuple[str, str, str, str, str, str, str]:
    name = entry.name.translate(CONTROL_CHARACTERS)
    if entry.type is EntryType.SYMLINK:
        name += f" -> {entry.symlink_to.translate(CONTROL_CHARACTERS)}"
    size = str(entry.size_bytes)
    if entry.type in {EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE}:
        size = f"{entry.device[0]}, {entry.device[1]}"
    return (
        stat.filemode(TYPE_BITS[entry.type] | entry.mode),
        str(entry.nlink),
        entry.owner.translate(CONTROL_CHARACTERS) or str(entry.uid),
        entry.group.translate(CONTROL_CHARACTERS) or str(entry.gid),
        size,
        _when(entry.mtime_s, now=now),
        name,
    )


def _when(mtime_s: int, *, now: datetime) -> str:
    try:
        moment = datetime.fromtimestamp(mtime_s, UTC)
    except (OverflowError, ValueError, OSError):
        return "?" * 12
    recent = now - RECENT < moment <= now
    return moment.strftime("%b %e %H:%M" if recent else "%b %e  %Y")
