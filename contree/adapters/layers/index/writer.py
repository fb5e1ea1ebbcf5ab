"""Writes a layer's index while its entries pass by once.

Entries may come in any order, repeat, and leave out directories, as imported layers do: the last
one wins, a missing parent is an implied directory, a parent that is a symbolic link of this layer
leads on inside the root, a whiteout hides lower layers only and never what this layer itself has
(OCI image-spec layer.md; what it leaves open is as Docker and containerd unpack). Raises
LayerRefused when the layer passes a bound or contradicts itself: a hard link to nothing, a file
below a file.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.schema import (
    COLUMNS,
    PARTIAL_INDEXES,
    ROOT_PARENT,
    SCHEMA,
    Row,
    implied_directory,
    pack_segments,
    pack_xattrs,
)
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry, join_path, shown, split_path
from contree.adapters.layers.tar.names import WHITEOUT_PREFIX, plain_path
from contree.domain.errors import LayerRefused

_INSERT: Final = f"INSERT OR REPLACE INTO entry ({COLUMNS}) VALUES ({', '.join('?' * 20)})"  # noqa: S608 - constants
_SELECT: Final = f"SELECT {COLUMNS} FROM entry WHERE parent = ? AND name = ?"  # noqa: S608 - constants


class IndexWriter:
    """A new index at `path`; nothing may read it before `finish`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # The file is made aside and fsynced when it is complete: no journal is needed meanwhile.
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + SCHEMA)
        self._db.execute("BEGIN")
        self._entry_count = 0
        self._last_ino = 0
        self._logical_bytes = 0
        self._row_count = 0
        self._index_bytes = 0
        self._has_links = False
        self._known_directory: bytes | None = None
        self._real_directory = b""
        self._store(implied_directory(ROOT_PARENT, b"", self._next_ino()))

    def put(self, entry: TarEntry, *, data_offset: int, sha256: bytes) -> None:
        """Add `entry`; its stored bytes lie at `data_offset` of the layer's tar."""
        self._count(entry)
        if entry.kind is Kind.WHITEOUT:
            self._whiteout(entry.path)
            return
        parent, name = self._place(entry.path)
        before = self._get(parent, name)
        if entry.kind is Kind.HARD_LINK:
            self._replace(before, self._linked(entry, parent, name))
            return
        opaque = entry.opaque
        if before is not None and entry.kind is Kind.DIRECTORY:
            # A directory over a whiteout of this layer, or over itself when that was opaque.
            opaque = opaque or before.kind == Kind.WHITEOUT or bool(before.opaque)
        row = Row(
            parent,
            name,
            entry.kind,
            0,
            int(opaque),
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_s,
            entry.size_bytes,
            self._next_ino(),
            1,
            entry.link,
            *entry.device,
            pack_xattrs(entry.xattrs),
            sha256,
            data_offset,
            entry.stored_bytes,
            pack_segments(entry.segments),
        )
        self._replace(before, row)

    def make_opaque(self, path: bytes) -> None:
        """Note that the directory `path` hides what lower layers have in it."""
        self._entry_count += 1
        self._within("ENTRIES_MAX", self._entry_count, bounds.ENTRIES_MAX)
        parent, name = self._place(path)
        before = self._get(parent, name)
        if before is None or before.kind == Kind.WHITEOUT:
            before = implied_directory(parent, name, self._next_ino())
        if before.kind != Kind.DIRECTORY:
            raise LayerRefused(f"'{shown(path)}' is marked opaque but is not a directory")
        self._store(before._replace(opaque=1))

    def file(self, path: bytes) -> Row | None:
        """Return what stands at `path` so far."""
        return self._get(*_key(path))

    def finish(self, *, size_bytes: int) -> int:
        """Complete the file, for others to fsync; return the number of entries the tar has."""
        self._db.execute("INSERT INTO layer VALUES (?, ?)", (self._entry_count, size_bytes))
        if self._has_links:
            self._count_links()
        for statement in PARTIAL_INDEXES:
            self._db.execute(statement)
        self._db.execute("COMMIT")
        self._db.close()
        return self._entry_count

    def close(self) -> None:
        """Give up an index that is not finished."""
        self._db.close()

    # -- rows ---------------------------------------------------------------------------------

    def _count_links(self) -> None:
        """Count names at the end: later entries may have replaced some of them."""
        # Without this index each update would walk the table.
        self._db.execute("CREATE INDEX by_ino ON entry (ino)")
        self._db.execute(
            "UPDATE entry SET link_count = names.count FROM"
            " (SELECT ino, count(*) AS count FROM entry GROUP BY ino HAVING count(*) > 1) AS names"
            " WHERE entry.ino = names.ino"
        )
        self._db.execute("DROP INDEX by_ino")

    def _count(self, entry: TarEntry) -> None:
        self._entry_count += 1
        self._logical_bytes += entry.size_bytes
        self._within("ENTRIES_MAX", self._entry_count, bounds.ENTRIES_MAX)
        self._within("LAYER_LOGICAL_BYTES_MAX", self._logical_bytes, bounds.LAYER_LOGICAL_BYTES_MAX)

    @staticmethod
    def _within(limit: str, value: int, most: int) -> None:
        if value > most:
            raise LayerRefused(f"the layer passes {limit} ({most})")

    def _whiteout(self, path: bytes) -> None:
        parent, name = self._place(path)
        before = self._get(parent, name)
        if before is None:
            self._store(
                implied_directory(parent, name, self._next_ino())._replace(
                    kind=Kind.WHITEOUT, implied=0, mode=0
                )
            )
        elif before.kind == Kind.DIRECTORY:
            # What is below is gone, and with it the metadata that an implied directory would show.
            self._store(before._replace(opaque=1, implied=0))

    def _linked(self, entry: TarEntry, parent: bytes, name: bytes) -> Row:
        target = self._get(*self._place(entry.link))
        if target is None or target.kind in (Kind.DIRECTORY, Kind.WHITEOUT):
            raise LayerRefused(
                f"'{shown(entry.path)}' is a hard link to '{shown(entry.link)}',"
                " which is no earlier file of this layer"
            )
        self._has_links = True
        return target._replace(parent=parent, name=name)

    def _place(self, path: bytes) -> tuple[bytes, bytes]:
        """Return the key of `path`, its parent directory made sure of."""
        parent, name = _key(path)
        if parent in (ROOT_PARENT, b""):
            return parent, name
        if parent != self._known_directory:
            self._real_directory = self._make_parents(parent)
            self._known_directory = parent
        return self._real_directory, name

    def _make_parents(self, directory: bytes) -> bytes:
        """Make sure of `directory`; return where links of this layer lead to for it."""
        path, links = b"", 0
        ahead = directory.split(b"/")[::-1]
        while ahead:
            component = ahead.pop()
            if component in (b"", b".", b".."):  # only links have these
                path = split_path(path)[0] if component == b".." else path
                continue
            row = self._get(path, component)
            if row is not None and row.kind == Kind.SYMLINK:
                links += 1
                if links > bounds.SYMLINKS_MAX:
                    raise LayerRefused(f"'{shown(directory)}' leads through too many links")
                path = b"" if row.symlink.startswith(b"/") else path
                ahead += row.symlink.split(b"/")[::-1]
                continue
            if row is None:
                self._store(implied_directory(path, component, self._next_ino()))
            elif row.kind == Kind.WHITEOUT:
                made = implied_directory(path, component, self._next_ino())
                self._store(made._replace(opaque=1, implied=0))
            elif row.kind != Kind.DIRECTORY:
                raise LayerRefused(
                    f"'{shown(join_path(path, component))}' has entries below it"
                    " but is not a directory"
                )
            path = join_path(path, component)
            if links and component.startswith(WHITEOUT_PREFIX):
                raise LayerRefused(f"'{shown(directory)}' leads to a whiteout")
        return plain_path(path, "name") if links and path else path

    def _replace(self, before: Row | None, row: Row) -> None:
        if before is not None:
            self._forget(before, row)
        self._store(row)

    def _forget(self, before: Row, row: Row) -> None:
        if before.kind in (Kind.DIRECTORY, Kind.SYMLINK):
            self._known_directory = None
        if before.kind == Kind.DIRECTORY and row.kind != Kind.DIRECTORY:
            path = row.path
            if not path:
                raise LayerRefused("the root is not a directory")
            # Everything below: paths that begin with `path/`; "0" is the byte after "/".
            self._db.execute(
                "DELETE FROM entry WHERE parent = ? OR (parent > ? AND parent < ?)",
                (path, path + b"/", path + b"0"),
            )

    def _get(self, parent: bytes, name: bytes) -> Row | None:
        found = self._db.execute(_SELECT, (parent, name)).fetchone()
        return None if found is None else Row._make(found)

    def _store(self, row: Row) -> None:
        self._row_count += 1
        self._index_bytes += (
            len(row.parent)
            + len(row.name)
            + len(row.symlink)
            + len(row.xattrs)
            + len(row.segments or b"")
        )
        self._within("ENTRIES_MAX", self._row_count, 2 * bounds.ENTRIES_MAX)
        self._within("LAYER_INDEX_BYTES_MAX", self._index_bytes, bounds.LAYER_INDEX_BYTES_MAX)
        self._db.execute(_INSERT, row)

    def _next_ino(self) -> int:
        self._last_ino += 1
        return self._last_ino


def _key(path: bytes) -> tuple[bytes, bytes]:
    return split_path(path) if path else (ROOT_PARENT, b"")
