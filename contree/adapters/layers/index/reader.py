"""Reads the index of one layer, and keeps a bounded number of them open.

An index never changes, so it is opened `immutable`: no locks, no change counters. A reader may be
used from several threads at once (SQLite serialises calls on one connection).
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from contree.adapters.layers.index.schema import COLUMNS, ROOT_PARENT, Row
from contree.adapters.layers.tar.entry import join_path, split_path

_GET: Final = f"SELECT {COLUMNS} FROM entry WHERE parent = ? AND name = ?"  # noqa: S608 - constants
_CHILDREN: Final = f"SELECT {COLUMNS} FROM entry WHERE parent = ? ORDER BY name"  # noqa: S608 - constants
_ALL: Final = f"SELECT {COLUMNS} FROM entry ORDER BY parent, name"  # noqa: S608 - constants
_UPWARDS: Final = f"SELECT {COLUMNS} FROM entry WHERE parent <> ? ORDER BY parent DESC, name"  # noqa: S608 - constants
_LINKS: Final = f"SELECT {COLUMNS} FROM entry WHERE ino = ? AND link_count > 1 LIMIT ?"  # noqa: S608 - constants
_IMPLIED: Final = "SELECT parent, name FROM entry WHERE implied = 1 ORDER BY parent, name"
_WHITEOUTS: Final = "SELECT parent, name FROM entry WHERE kind = 0 ORDER BY parent, name"
_CACHE_KIB: Final = 1024
_MAPPED_BYTES: Final = 256 * 1024**2


class LayerIndex:
    """Read-only view of one index file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
        )
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._db.execute(f"PRAGMA mmap_size={_MAPPED_BYTES}")
        self._db.execute("PRAGMA query_only=1")
        self.entry_count, self.size_bytes = self._db.execute(
            "SELECT entry_count, size_bytes FROM layer"
        ).fetchone()
        root = self.get(ROOT_PARENT, b"")
        assert root is not None, "IndexWriter always stores the root"
        self._root = root  # every lookup in a stack begins with it

    def get(self, parent: bytes, name: bytes) -> Row | None:
        found = self._db.execute(_GET, (parent, name)).fetchone()
        return None if found is None else Row._make(found)

    def root(self) -> Row:
        return self._root

    def children(self, directory: bytes) -> Iterator[Row]:
        """Yield the rows in a directory, by name; holds a statement open until it is exhausted."""
        return map(Row._make, self._db.execute(_CHILDREN, (directory,)))

    def rows(self) -> Iterator[Row]:
        """Yield every row, a directory before what is in it."""
        return map(Row._make, self._db.execute(_ALL))

    def rows_upwards(self) -> Iterator[Row]:
        """Yield every row but the root's: what is in a directory together, by name, and before the
        directory's own row.
        """
        return map(Row._make, self._db.execute(_UPWARDS, (ROOT_PARENT,)))

    def names_of(self, ino: int, *, limit: int) -> Sequence[Row]:
        """Return the names of a file that has several, at most `limit`."""
        return [Row._make(found) for found in self._db.execute(_LINKS, (ino, limit))]

    def implied_directories(self) -> Sequence[bytes]:
        """Return the directories whose metadata is that of the layers below; '' is the root."""
        return self._paths(_IMPLIED)

    def whiteouts(self) -> Sequence[bytes]:
        """Return the paths that this layer removes."""
        return self._paths(_WHITEOUTS)

    def _paths(self, query: str) -> Sequence[bytes]:
        return [
            b"" if parent == ROOT_PARENT else join_path(parent, name)
            for parent, name in self._db.execute(query)
        ]

    def at(self, path: bytes) -> Row | None:
        return self.get(*split_path(path)) if path else self.root()

    def close(self) -> None:
        self._db.close()


class IndexCache:
    """Open indexes by file, least recently used closed first, never one that is in use."""

    def __init__(self, *, open_max: int = 256) -> None:
        self._open_max = open_max
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, _Held] = OrderedDict()

    @contextmanager
    def using(self, paths: Sequence[Path]) -> Iterator[list[LayerIndex]]:
        """Hold the indexes of `paths`, in their order. Raises FileNotFoundError when one is absent.

        A stack deeper than the bound is still held whole; the surplus is closed on leaving.
        """
        held: list[_Held] = []
        try:
            with self._lock:
                for path in paths:
                    held.append(self._hold(path))  # noqa: PERF401 - kept also when the next fails
            yield [one.index for one in held]
        finally:
            with self._lock:
                for one in held:
                    one.users -= 1
                self._shrink()

    def close(self) -> None:
        """Close everything that nobody uses."""
        with self._lock:
            for path in [path for path, one in self._open.items() if not one.users]:
                self._open.pop(path).index.close()

    def _hold(self, path: Path) -> _Held:
        one = self._open.get(path)
        if one is None:
            if not path.exists():
                raise FileNotFoundError(path)
            one = self._open[path] = _Held(LayerIndex(path))
        self._open.move_to_end(path)
        one.users += 1
        return one

    def _shrink(self) -> None:
        surplus = len(self._open) - self._open_max
        if surplus <= 0:
            return
        idle = [path for path, one in self._open.items() if not one.users]
        for path in idle[:surplus]:
            self._open.pop(path).index.close()


class _Held:
    __slots__ = ("index", "users")

    def __init__(self, index: LayerIndex) -> None:
        self.index = index
        self.users = 0
