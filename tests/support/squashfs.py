"""Squashfs images of parts, for tools that want them in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from contree.app.images.layer_store import FilePart, MountPlan


def whole(path: Path) -> tuple[FilePart, ...]:
    """The image that is one file."""
    return (FilePart(path=path, offset_bytes=0, size_bytes=path.stat().st_size),)


def files(plan: MountPlan) -> list[Path]:
    """The mountable file of each image: the first part is of it."""
    return [image[0].path for image in plan.squashfs]


def joined(image: Sequence[FilePart], target: Path) -> Path:
    """Write an image to `target`, as a guest's disk shows it; holes stay holes."""
    with target.open("wb") as out:
        at = 0
        for part in image:
            with part.path.open("rb") as source:
                _copy_data(source.fileno(), part, out.fileno(), at)
            at += part.size_bytes
        out.truncate(at)
    return target


def _copy_data(source: int, part: FilePart, out: int, at: int) -> None:
    begin = position = part.offset_bytes
    end = min(begin + part.size_bytes, os.fstat(source).st_size)
    while position < end:
        try:
            data = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole
            return
        hole = min(os.lseek(source, data, os.SEEK_HOLE), end)
        while data < hole:
            data += os.pwrite(
                out, os.pread(source, min(hole - data, 1 << 20), data), at + data - begin
            )
        position = hole
