"""The index of several adjacent layers as if they were one.

What it shows, on whatever is below and under whatever is above, is exactly what the layers show:
whiteouts and opaque marks stay, since they may hide something below; a directory that all of them
only imply stays implied, since it shows metadata from below; names of one file stay names of one
file. Contents stay in the layers' tars: `ino` says in which (index_schema.SOURCE_SHIFT).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import (
    COLUMNS,
    PARTIAL_INDEXES,
    SCHEMA,
    SOURCE_SHIFT,
    Row,
)
from contree.adapters.layers.index.stack import decided
from contree.adapters.layers.staging import sync_file
from contree.adapters.layers.tar.entry import Kind, join_path, split_path

_INSERT: Final = f"INSERT INTO entry ({COLUMNS}) VALUES ({', '.join('?' * 20)})"  # noqa: S608 - constants
_FORGET: Final = "DELETE FROM entry WHERE parent = ? AND name = ?"

_Found = tuple[bytes, int, Row]
"""Name, number of the index from the top, and its row."""


def merge_indexes(
    indexes: Sequence[LayerIndex], starts: Sequence[int], target: Path, *, pulse: Callable[[], None]
) -> None:
    """Write the index of all `indexes` (bottom to top) to `target`.

    `starts` are the numbers of their lowest layers. `pulse` is called now and then; what it raises
    ends the work.
    """
    top_first = list(reversed(indexes))
    sources = [(start - starts[0]) << SOURCE_SHIFT for start in reversed(starts)]
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        # As in index_writer: made aside and fsynced once, when it is complete.
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + SCHEMA)
        db.execute("BEGIN")
        for number, row in _walk(top_first, pulse):
            db.execute(_INSERT, row._replace(ino=row.ino + sources[number]))
        size_bytes = sum(index.size_bytes for index in indexes)
        db.execute("INSERT INTO layer SELECT count(*), ? FROM entry", (size_bytes,))
        for statement in PARTIAL_INDEXES:
            db.execute(statement)
        db.execute("COMMIT")


def complete(target: Path, idle: Sequence[bytes]) -> None:
    """Leave out the whiteouts `idle`, which hide nothing where this will be used; fsync.

    Without this the whiteouts of everything that ever came and went would pile up.
    """
    if idle:
        with closing(sqlite3.connect(target, isolation_level=None)) as db:
            db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
            db.execute("BEGIN")
            db.executemany(_FORGET, map(split_path, idle))
            db.execute("UPDATE layer SET entry_count = entry_count - ?", (len(idle),))
            db.execute("COMMIT")
    sync_file(target)


def _walk(top_first: Sequence[LayerIndex], pulse: Callable[[], None]) -> Iterator[tuple[int, Row]]:
    """Yield what the merged layers have, with the number of the index that describes it."""
    roots = [(b"", number, index.root()) for number, index in enumerate(top_first)]
    root, visible = _combined(roots)
    yield root
    pending = [(b"", visible)]
    while pending:
        parent, visible = pending.pop()
        pulse()
        streams = [_ranked(top_first[number], number, parent) for number in visible]
        for _, same in groupby(merge(*streams), key=lambda one: one[0]):
            found, inside = _combined(same)
            yield found
            if found[1].kind == Kind.DIRECTORY:
                pending.append((join_path(parent, found[1].name), inside))


def _ranked(index: LayerIndex, number: int, parent: bytes) -> Iterator[_Found]:
    return ((row.name, number, row) for row in index.children(parent))


def _combined(same: Iterator[_Found] | Sequence[_Found]) -> tuple[tuple[int, Row], tuple[int, ...]]:
    """Return the one row that stands for all of a name, and the indexes whose children it shows."""
    rows = [(number, row) for _, number, row in same]
    what = decided(rows)
    if what is None:
        return rows[0], ()  # a whiteout on top: it may hide something below all of these
    number, row, visible, to_the_end = what
    if row.kind != Kind.DIRECTORY:
        return (number, row), ()
    if not to_the_end:
        # Nothing below shows through, as in one layer that removes a directory and makes it anew.
        return (number, row._replace(opaque=1, implied=0)), visible
    hidden = any(other.opaque for _, other in rows if other.kind == Kind.DIRECTORY)
    return (number, row._replace(opaque=int(hidden))), visible
