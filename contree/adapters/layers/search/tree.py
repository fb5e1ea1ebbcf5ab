"""The searchable text of one layer as plain files, for ripgrep to read.

    <root>/<boot id>/<hex>/<ino>           content of a regular file of the layer
    <root>/<boot id>/<hex>/<ino>.left_out  empty: that file is text, but over a bound

The files have names of our own, mode 0400, no owner, link or attribute of the guest's. Binary files
are not there: whether a file has a NUL byte is found out once, here, and what has holes need not
even be read. A tree is derived state: it appears whole by one rename, is never changed, and may be
removed at any time. It is not fsynced, since trees of earlier boots are never read again.
"""

from __future__ import annotations

import codecs
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import AnyStr, Final

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import Row
from contree.adapters.layers.reading.content import read_content
from contree.adapters.layers.staging import staging_directory
from contree.adapters.layers.tar.entry import Kind

FILE_BYTES_MAX: Final = 1024**3
"""A larger file is not searched."""

LINE_BYTES_MAX: Final = 4 * 1024**2
"""A file with a longer line is not searched: ripgrep holds whole lines, and names each match in
one, so that memory grows with them."""

LEFT_OUT_SUFFIX: Final = ".left_out"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_UTF_16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FILE_MODE: Final = 0o400
_DIRECTORY_MODE: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The tree of a layer: its name below SearchTrees.directory, and numbers of files.

    there      those whose text is there
    left_out   those that are text, but over a bound
    """

    name: str
    there: set[int] = field(default_factory=set)
    left_out: set[int] = field(default_factory=set)


class SearchTrees:
    """The trees below `root`, a directory of this machine alone. Blocking; safe in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.directory = root / _BOOT_ID.read_text().strip()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Give up what is being made: its thread meets CancelledError."""
        self._stopping.set()

    def has(self, digest: str) -> bool:
        return (self.directory / digest).is_dir()

    def make(self, digest: str, index: LayerIndex, tar: Path) -> None:
        """Make the tree of a layer unless it is there. Raises StorageFullError."""
        if self.has(digest):
            return
        self._prepare()
        with staging_directory(self.directory) as staged:
            made = staged / "new"
            made.mkdir(mode=_DIRECTORY_MODE)
            _fill(made, index, tar, self._pulse)
            with suppress(OSError):  # another process was first, and made the same
                made.rename(self.directory / digest)

    def tree(self, digest: str) -> Tree:
        tree = Tree(name=digest)
        for name in os.listdir(self.directory / digest):  # noqa: PTH208 - names, not paths
            number = name.removesuffix(LEFT_OUT_SUFFIX)
            (tree.there if number == name else tree.left_out).add(int(number))
        return tree

    def _pulse(self) -> None:
        if self._stopping.is_set():
            raise CancelledError

    def _prepare(self) -> None:
        """Make the directory of this boot; remove what is left of earlier ones."""
        if self.directory.is_dir():
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=_DIRECTORY_MODE)
        for other in self._root.iterdir():
            if other != self.directory:
                shutil.rmtree(other, ignore_errors=True)


def _fill(made: Path, index: LayerIndex, tar: Path, pulse: Callable[[], None]) -> None:
    rows = {row.ino: row for row in index.rows() if row.kind == Kind.REGULAR and row.size_bytes}
    directory = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    source = os.open(tar, os.O_RDONLY)
    try:
        for row in sorted(rows.values(), key=lambda row: row.data_offset):
            _copy_text(directory, source, row, pulse)
    finally:
        os.close(source)
        os.close(directory)


def _copy_text(directory: int, source: int, row: Row, pulse: Callable[[], None]) -> None:
    """Write the file unless it is binary; of one over a bound, only that it is."""
    pulse()
    entry = row.entry()
    if entry.segments is not None and sum(size for _, size in entry.segments) < row.size_bytes:
        return  # a hole reads as NUL bytes
    pieces = read_content(source, entry)
    first = next(pieces)
    check = _TextCheck(first)
    if not check.is_text(first):
        return
    name = str(row.ino)
    target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=directory)
    try:
        is_text = row.size_bytes > FILE_BYTES_MAX or _write_text(
            target, first, pieces, check, pulse
        )
        if is_text and (row.size_bytes > FILE_BYTES_MAX or check.has_long_line):
            os.ftruncate(target, 0)
            left_out = name + LEFT_OUT_SUFFIX
            os.rename(name, left_out, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(target)
    if not is_text:
        os.unlink(name, dir_fd=directory)


def _write_text(
    target: int,
    first: bytes,
    pieces: Iterator[bytes],
    check: _TextCheck,
    pulse: Callable[[], None],
) -> bool:
    """Write the pieces as long as they are text; say whether all were."""
    _write(target, first)
    for piece in pieces:
        pulse()
        if not check.is_text(piece):
            return False
        _write(target, piece)
    return True


class _TextCheck:
    """Looks at a file's bytes as they go by; `first` are those it begins with."""

    def __init__(self, first: bytes) -> None:
        self.has_long_line = False
        self._line_bytes = 0
        self._wide: codecs.IncrementalDecoder | None = None
        if first.startswith(_UTF_16_MARKS):
            self._wide = codecs.getincrementaldecoder("utf-16")(errors="replace")

    def is_text(self, piece: bytes) -> bool:
        """Say whether the next piece has no NUL."""
        if self._wide is None:
            return b"\0" not in piece and self._measure(piece, b"\n")
        text = self._wide.decode(piece)
        return "\0" not in text and self._measure(text, "\n")

    def _measure(self, piece: AnyStr, newline: AnyStr) -> bool:
        first = piece.find(newline)
        length = self._line_bytes + (len(piece) if first < 0 else first)
        self.has_long_line = self.has_long_line or length > LINE_BYTES_MAX
        self._line_bytes = length if first < 0 else len(piece) - piece.rfind(newline) - 1
        return True


def _write(target: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(data):
            done += os.write(target, view[done:])
