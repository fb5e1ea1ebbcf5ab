"""Derived files that larger ones have replaced, and that nobody has used for a while, are removed.

A merged span covers smaller ones and the squashfs files of single layers; images whose top lies
inside it are still mounted by those. Each use is marked in the file's modification time, as far as
the mark is not new anyway. What is covered and has not been used for KEPT_S goes: it is made again
if it is wanted again. Removing never harms a guest, which has its files open, and never one that is
about to start: whoever marks a file either finds it gone and does without, or keeps it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final

from contree.adapters.layers.staging import put_back, staging_directory, sync_file

KEPT_S: Final = 3600.0
"""How long what is covered is kept after its last use; starting a guest takes much less."""

MARKED_S: Final = KEPT_S / 4
"""How old a mark may be before it is renewed."""

COVERS_NAME: Final = "covers"
SQUASHFS_PATTERN: Final = "mount-v*.squashfs"


def mark_used(path: Path) -> bool:
    """Keep `path` for KEPT_S from now on. Returns False when it is not there."""
    try:
        if _unused_s(path) > MARKED_S:
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


def write_covers(directory: Path, *, merged: Sequence[Path], layers: Sequence[Path]) -> None:
    """Note, fsynced, what the merged span in `directory` covers."""
    lines = [f"{path.parent.name}/{path.name}\n" for path in merged]
    lines += [f"{path.name}\n" for path in layers]
    (directory / COVERS_NAME).write_text("".join(lines))
    sync_file(directory / COVERS_NAME)


def covered(root: Path, merged: Path) -> Iterator[Path]:
    """Yield once each path that is covered by a span in `merged` and is there."""
    seen: set[str] = set()
    for directory in _directories(merged):
        for name in _covers(directory) or ():
            if name in seen:
                continue
            seen.add(name)
            if "/" in name:
                yield root / name
            else:
                yield from (root / name).glob(SQUASHFS_PATTERN)


def covering(merged: Path, layers: AbstractSet[str]) -> Iterator[Path]:
    """Yield each span in `merged` that is made of one of `layers`, or does not say of which."""
    for directory in _directories(merged):
        names = _covers(directory)
        if names is None or not layers.isdisjoint(names):
            yield directory


def _directories(merged: Path) -> list[Path]:
    return sorted(merged.iterdir()) if merged.is_dir() else []


def _covers(directory: Path) -> list[str] | None:
    """The names of what a span covers; None when it was removed just now, or lost a part."""
    try:
        return (directory / COVERS_NAME).read_text().split()
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove_unused(path: Path, root: Path) -> bool:
    """Remove `path` unless it was used in the last KEPT_S. Returns whether it did."""
    if not is_unused(path):
        return False
    with staging_directory(root) as staged:
        aside = staged / "unused"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        # Whoever marked it until now thinks that it is there; from now on they see that it is not.
        if is_unused(aside):
            return True
        with suppress(OSError):  # made again meanwhile
            put_back(aside, path)
        return False


def is_unused(path: Path) -> bool:
    """Whether `path` is there and was not used in the last KEPT_S."""
    try:
        return _unused_s(path) > KEPT_S
    except FileNotFoundError:
        return False


def _unused_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
