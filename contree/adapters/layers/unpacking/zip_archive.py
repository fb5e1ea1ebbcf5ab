"""A hostile zip to entries and bytes. Blocking.

Python's `zipfile` reads it, held to what it does in bounded memory: central directories of a
bounded size, and no methods but stored and deflated.
"""

from __future__ import annotations

import calendar
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, Final, cast

from contree.adapters.layers.tar.bounds import COPY_CHUNK_BYTES, PATH_BYTES_MAX
from contree.adapters.layers.tar.entry import SYMLINK_MODE, shown
from contree.adapters.layers.tar.names import imported_path, symlink_target
from contree.adapters.layers.unpacking.limits import ENTRIES_MAX, ZIP_READ_BYTES_MAX
from contree.app.content.archives import ArchiveEntry
from contree.app.guest.microvm import FileKind
from contree.domain.errors import LayerRefused

MAGICS: Final = (b"PK\x03\x04", b"PK\x05\x06")
"""APPNOTE.TXT 4.3: a local file header, or the end record of an empty archive."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1
_UNIX: Final = 3
_TIMESTAMP: Final = 0x5455
_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755
_DAMAGE: Final = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError,
    OverflowError, KeyError, struct.error, zlib.error,
)  # fmt: skip
"""What zipfile raises for bytes that nobody's program wrote; the file itself is local."""


def zip_items(stream: BinaryIO) -> Iterator[ArchiveEntry | bytes]:
    """Yield entries, each followed by its bytes. Raises LayerRefused."""
    try:
        with zipfile.ZipFile(cast("IO[bytes]", _Bounded(stream))) as archive:
            members = archive.infolist()
            if len(members) > ENTRIES_MAX:
                raise LayerRefused(f"it has more than {ENTRIES_MAX} entries")
            for member in members:
                yield from _member(archive, member)
    except _DAMAGE as error:
        raise LayerRefused(f"the zip is damaged: {error}") from error


class _Bounded:
    """The file, for a reader that believes sizes: nothing large is read at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or size > ZIP_READ_BYTES_MAX:
            data = self._stream.read(ZIP_READ_BYTES_MAX + 1)
            if len(data) > ZIP_READ_BYTES_MAX:
                raise LayerRefused(f"its directory is over {ZIP_READ_BYTES_MAX} bytes")
            return data
        return self._stream.read(size)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[ArchiveEntry | bytes]:
    path, slash = imported_path(info.filename.encode("utf-8", "surrogateescape"), "name")
    if info.compress_type not in _METHODS:
        raise LayerRefused(f"'{shown(path)}' is neither stored nor deflated")
    if info.flag_bits & _ENCRYPTED:
        raise LayerRefused(f"'{shown(path)}' is encrypted")
    unix = info.external_attr >> 16 if info.create_system == _UNIX else 0
    kind, target, size_bytes = _kind(unix, path, is_directory=slash or not path), b"", 0
    if kind is FileKind.SYMLINK:
        if info.file_size > PATH_BYTES_MAX:
            raise LayerRefused(f"symbolic link '{shown(path)}' has an impossible target")
        target = symlink_target(archive.read(info), path)
    elif kind is FileKind.FILE:
        size_bytes = info.file_size
    yield ArchiveEntry(
        path=path,
        kind=kind,
        mode=_mode(unix, kind),
        mtime_s=_mtime(info),
        size_bytes=size_bytes,
        target=target,
    )
    if size_bytes:
        with archive.open(info) as content:
            while piece := content.read(COPY_CHUNK_BYTES):
                yield piece


def _kind(unix: int, path: bytes, *, is_directory: bool) -> FileKind:
    if is_directory or stat.S_ISDIR(unix):
        return FileKind.DIRECTORY
    if stat.S_ISLNK(unix):
        return FileKind.SYMLINK
    if stat.S_IFMT(unix) not in {0, stat.S_IFREG}:
        raise LayerRefused(f"'{shown(path)}' is neither file, directory nor link; leave it out")
    return FileKind.FILE


def _mode(unix: int, kind: FileKind) -> int:
    if kind is FileKind.SYMLINK:
        return SYMLINK_MODE
    return stat.S_IMODE(unix) or (_DIRECTORY_MODE if kind is FileKind.DIRECTORY else _FILE_MODE)


def _mtime(info: zipfile.ZipInfo) -> int | None:
    """Return the time that Unix programs add; else the DOS time, which has no zone, as UTC."""
    at = 0
    while at + 4 <= len(info.extra):
        tag, size = struct.unpack_from("<HH", info.extra, at)
        body = info.extra[at + 4 : at + 4 + size]
        if tag == _TIMESTAMP and len(body) >= 5 and body[0] & 1:  # noqa: PLR2004 - flags, i32
            (seconds,) = struct.unpack_from("<i", body, 1)
            return int(seconds)
        at += 4 + size
    try:
        return calendar.timegm(info.date_time)
    except ValueError:  # a month that there is not
        return None
