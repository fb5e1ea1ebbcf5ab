"""A guest's capture stream to the canonical OCI layer: equal content, equal bytes, equal digest.

The form: entries in the stream's own order (depth-first, byte order), a whiteout `.wh.x` in the
place of `x`, `.wh..wh..opq` right after its directory, headers as `tar.writer` has them, then two
zero blocks. Left out, so that irrelevant differences do not change the digest:

- the root's entry, when the root is as below;
- whiteouts of what is not there, opaque marks over directories that have nothing below them;
- files that are as below in everything, content included, and directories that are as below
  and hold nothing else: overlayfs copies files up for less than a change. (A file whose hard links
  are in the delta stays.)

What remains may be nothing, or directories with another time only: then there is no change at all.
Removing a directory and making an equal one counts as a change: a new opaque directory is not
compared entry by entry with what it hides. Hard links of a file below that overlayfs broke by
copying it up, and nothing else, do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.schema import Row
from contree.adapters.layers.index.stack import Stack
from contree.adapters.layers.index.writer import IndexWriter
from contree.adapters.layers.reading.content import ContentHash
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry, join_path, shown, split_path
from contree.adapters.layers.tar.names import OPAQUE_NAME, WHITEOUT_PREFIX
from contree.adapters.layers.tar.reader import ByteSource, Rules, TarReader
from contree.adapters.layers.tar.writer import END_OF_ARCHIVE, header, padding
from contree.adapters.layers.writing.delta_view import (
    Below,
    inherited_root,
    same_but_for_time,
    same_time,
)
from contree.adapters.layers.writing.guest_stream import guest_entries
from contree.adapters.layers.writing.hashed_file import HashedFile
from contree.adapters.layers.writing.imported import index_layer
from contree.domain.errors import LayerRefused

_WRITE_BUFFER_BYTES: Final = 128 * 1024
"""For headers and small files; larger pieces are written as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalLayer:
    """What was made of a delta."""

    digest_hex: str
    size_bytes: int
    entry_count: int


@dataclass(slots=True)
class _Findings:
    """What the first pass learned.

    changed       something is not as below, times of directories apart
    unchanged     files that are as below in everything
    linked_to     targets of hard links
    idle          directories that are as below in everything
    """

    changed: bool = False
    unchanged: set[bytes] = field(default_factory=set)
    linked_to: set[bytes] = field(default_factory=set)
    idle: set[bytes] = field(default_factory=set)


def canonical_layer(
    source: ByteSource, below: Stack, *, tar: Path, index: Path
) -> CanonicalLayer | None:
    """Read a guest's stream to its end; write the layer to `tar` and its index to `index`.

    Returns None when it changes nothing; the files are then worthless. Raises LayerRefused.
    """
    with tar.open("wb", buffering=_WRITE_BUFFER_BYTES) as stream, HashedFile(stream) as out:
        writer = _Writer(out, IndexWriter(index), Below(below))
        try:
            layer = writer.copy(TarReader(source, Rules.GUEST))
        finally:
            writer.index.close()
    if layer is None:
        return None
    found = writer.findings
    dropped = found.unchanged - found.linked_to
    dropped |= _idle_directories(found.idle, dropped, tar)
    return _without(dropped, tar, index) if dropped else layer


class _Writer:
    """One pass over the stream: canonical tar, index and findings at once."""

    def __init__(self, out: HashedFile, index: IndexWriter, below: Below) -> None:
        self._out = out
        self._below = below
        self.index = index
        self.findings = _Findings()
        self._first_names: dict[int, bytes] = {}

    def copy(self, reader: TarReader) -> CanonicalLayer | None:
        """Return None when nothing is changed: the files are not completed then."""
        for entry in guest_entries(reader):
            if not entry.path:
                self._root(entry)
            elif entry.kind is Kind.WHITEOUT:
                self._whiteout(entry)
            elif entry.kind is Kind.DIRECTORY:
                self._directory(entry)
            elif entry.kind is Kind.HARD_LINK:
                self._hard_link(entry)
            else:
                self._file(entry, reader)
        if not self.findings.changed:
            return None
        self._out.write(END_OF_ARCHIVE)
        size_bytes = self._out.position
        return CanonicalLayer(
            digest_hex=self._out.hexdigest(),
            size_bytes=size_bytes,
            entry_count=self.index.finish(size_bytes=size_bytes),
        )

    def _root(self, entry: TarEntry) -> None:
        below = self._below.root
        entry = inherited_root(entry, below)
        alike = same_but_for_time(entry, below.row)
        if not alike:
            self.findings.changed = True
        if not alike or not same_time(entry, below.row):
            self._put(replace(entry, opaque=False))
        if entry.opaque and self._below.has_children(below):
            self._opaque(b"")
            self._below.enter(b"", None)

    def _whiteout(self, entry: TarEntry) -> None:
        parent, name = split_path(entry.path)
        if self._below.at(parent, name) is None:
            return
        self.findings.changed = True
        marker = TarEntry(path=join_path(parent, WHITEOUT_PREFIX + name), kind=Kind.REGULAR)
        self._out.write(header(marker))
        self.index.put(entry, data_offset=0, sha256=b"")

    def _directory(self, entry: TarEntry) -> None:
        below = self._below.at(*split_path(entry.path))
        if below is not None and not below.is_directory:
            below = None
        alike = below is not None and same_but_for_time(entry, below.row)
        hides = entry.opaque and below is not None and self._below.has_children(below)
        self.findings.changed |= hides or not alike
        if alike and not hides and below is not None and same_time(entry, below.row):
            self.findings.idle.add(entry.path)
        self._put(replace(entry, opaque=False))
        if hides:
            self._opaque(entry.path)
        self._below.enter(entry.path, None if entry.opaque else below)

    def _hard_link(self, entry: TarEntry) -> None:
        target = self.index.file(entry.link)
        if target is None or target.kind in (Kind.DIRECTORY, Kind.WHITEOUT):
            raise LayerRefused(
                f"'{shown(entry.path)}' is a hard link to '{shown(entry.link)}', which is no"
                " earlier file"
            )
        # Two names of one file are a change even where both are as below: there they may be two.
        self.findings.changed = True
        # Whichever name of the file the guest gave: the layer links to the first one.
        first = self._first_names.setdefault(target.ino, entry.link)
        self.findings.linked_to.add(first)
        # Its metadata is its file's; a guest that says otherwise would make two digests of one.
        described = target.entry()
        entry = replace(
            entry,
            link=first,
            mode=described.mode,
            uid=described.uid,
            gid=described.gid,
            mtime_s=described.mtime_s,
            xattrs=(),
        )
        self._put(entry)

    def _file(self, entry: TarEntry, reader: TarReader) -> None:
        below = self._below.at(*split_path(entry.path))
        alike = (
            below is not None
            and same_but_for_time(entry, below.row)
            and same_time(entry, below.row)
        )
        digest = self._put(entry, reader)
        if below is not None and alike and _same_content(digest, below.row):
            self.findings.unchanged.add(entry.path)
        else:
            self.findings.changed = True

    def _opaque(self, path: bytes) -> None:
        self._out.write(header(TarEntry(path=join_path(path, OPAQUE_NAME), kind=Kind.REGULAR)))
        self.index.make_opaque(path)

    def _put(self, entry: TarEntry, reader: TarReader | None = None) -> bytes:
        """Write an entry with its content; return the content's digest."""
        self._out.write(header(entry))
        data_offset = self._out.position
        digest = b""
        if reader is not None and entry.kind is Kind.REGULAR:
            digest = self._content(entry, reader)
        self.index.put(entry, data_offset=data_offset, sha256=digest)
        return digest

    def _content(self, entry: TarEntry, reader: TarReader) -> bytes:
        hashed = ContentHash(entry)
        for chunk in reader.chunks():
            self._out.write(chunk)
            hashed.update(chunk)
        self._out.write(padding(entry.stored_bytes))
        return hashed.digest()


def _same_content(digest: bytes, row: Row) -> bool:
    return digest == row.sha256


def _idle_directories(as_below: set[bytes], dropped: set[bytes], tar: Path) -> set[bytes]:
    """Return those of the directories `as_below` that hold nothing that stays."""
    idle = set(as_below)
    if not idle:
        return idle
    with tar.open("rb", buffering=bounds.COPY_CHUNK_BYTES) as stream:
        for entry in TarReader(stream, Rules.IMPORT):
            if entry.path in dropped or entry.path in as_below:
                continue
            parent = split_path(entry.path)[0]
            while parent:
                idle.discard(parent)
                parent = split_path(parent)[0]
    return idle


def _without(dropped: set[bytes], tar: Path, index: Path) -> CanonicalLayer:
    """Write the layer once more, without some of its entries."""
    whole = tar.with_name("whole.tar")
    tar.rename(whole)
    index.unlink()
    with (
        whole.open("rb") as source,
        tar.open("wb", buffering=_WRITE_BUFFER_BYTES) as stream,
        HashedFile(stream) as out,
    ):
        reader = TarReader(source, Rules.IMPORT)
        for entry in reader:
            if entry.path in dropped:
                continue
            out.write(header(entry))
            for chunk in reader.chunks():
                out.write(chunk)
            out.write(padding(entry.stored_bytes))
        out.write(END_OF_ARCHIVE)
    whole.unlink()
    return CanonicalLayer(
        digest_hex=out.hexdigest(),
        size_bytes=out.position,
        entry_count=index_layer(tar, index),
    )
