"""Hostile tar stream to validated entries, in bounded memory.

Who sends these bytes: registries (`GUEST_RULES` off) and guests (on). Python's `tarfile` reads
extended headers and sparse maps whole, whatever their size, and repairs what it does not like; this
reader holds one header and one piece of content at a time and refuses. Understood: ustar, pax, and
for imports GNU long names and every GNU sparse format but pax 0.0 (withdrawn in 2005).

It checks each entry by itself. What one entry means beside the others (order, duplicates, hard link
targets, whiteouts) is for `writing`. It never writes and never seeks.

An entry shows no POSIX ACL, and its mode gives nobody more than that did (`acl`): index, listing,
archive, guest and the next layer all have it from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar import fields as tar_fields
from contree.adapters.layers.tar.acl import ACL_XATTRS, mode_without_acl
from contree.adapters.layers.tar.entry import (
    SYMLINK_MODE,
    Kind,
    Segments,
    TarEntry,
    Xattrs,
    shown,
)
from contree.adapters.layers.tar.names import (
    imported_path,
    member_path,
    plain_path,
    symlink_target,
)
from contree.adapters.layers.tar.sparse_map import read_map
from contree.domain.errors import LayerRefused

BLOCK: Final = bounds.BLOCK_BYTES
SPARSE_PREFIX: Final = b"GNU.sparse."
_ZERO_BLOCK: Final = bytes(BLOCK)

_KINDS: Final = {
    b"\0": Kind.REGULAR,
    b"0": Kind.REGULAR,
    b"7": Kind.REGULAR,
    b"S": Kind.REGULAR,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


class Rules(Enum):
    """Whose stream it is. A guest's has one possible form (docs/guest-protocol.md, Capture)."""

    IMPORT = auto()
    GUEST = auto()


class ByteSource(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, at least one unless the stream has ended."""
        ...


@dataclass(slots=True)
class _Extended:
    """What the extended headers before an entry said of it."""

    pax: dict[bytes, bytes]
    long_name: bytes | None = None
    long_link: bytes | None = None


class TarReader:
    """Iterates over the entries of a stream; `chunks` gives the content of the latest one."""

    def __init__(self, source: ByteSource, rules: Rules) -> None:
        self._source = source
        self._rules = rules
        self._position = 0
        self._content_left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        """Yield entries up to the end of the stream. Raises LayerRefused at the first wrong one."""
        while True:
            self._skip_content()
            start = self._position
            header, extended = self._next_header()
            if header is None:
                return
            yield self._entry(start, header, extended)

    def chunks(self) -> Iterator[bytes]:
        """Yield the stored bytes of the latest entry, once; what is not taken is skipped later."""
        while self._content_left:
            piece = self._some(min(self._content_left, bounds.CONTENT_CHUNK_BYTES))
            self._content_left -= len(piece)
            yield piece

    # -- the stream ---------------------------------------------------------------------------

    def _some(self, size: int) -> bytes:
        piece = self._source.read(size)
        if not piece:
            raise LayerRefused("the tar stream is cut off")
        self._position += len(piece)
        return piece

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            piece = self._some(size)
            size -= len(piece)
            parts.append(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _padded(self, size: int) -> bytes:
        """Read a small body with its padding, and return it without."""
        return self._exactly(size + -size % BLOCK)[:size]

    def _skip_content(self) -> None:
        for _ in self.chunks():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _block(self) -> bytes | None:
        """Return the next block, None where the stream ends between two blocks."""
        first = self._source.read(BLOCK)
        if not first:
            return None
        self._position += len(first)
        return first if len(first) == BLOCK else first + self._exactly(BLOCK - len(first))

    # -- headers ------------------------------------------------------------------------------

    def _next_header(self) -> tuple[bytes | None, _Extended]:
        """Return the next real header and what the extended headers before it said."""
        extended = _Extended(pax={})
        budget = bounds.PAX_HEADER_BYTES_MAX
        seen = 0
        while True:
            block = self._block()
            if block is None or block == _ZERO_BLOCK:
                if seen:
                    raise LayerRefused("the tar stream ends after an extended header")
                self._end(block)
                return None, extended
            if not tar_fields.checksum_ok(block):
                raise LayerRefused("a tar header has a wrong checksum")
            flag = block[156:157]
            if flag not in (b"x", b"g", b"L", b"K"):
                return block, extended
            size = tar_fields.number(block[124:136], "size")
            seen += 1
            budget -= size + BLOCK
            if size < 0 or budget < 0:
                raise LayerRefused(f"extended headers over {bounds.PAX_HEADER_BYTES_MAX} bytes")
            self._extend(extended, flag, self._padded(size))

    def _extend(self, extended: _Extended, flag: bytes, body: bytes) -> None:
        if flag == b"x":
            for keyword, value in tar_fields.pax_records(body).items():
                if value or b"." in keyword:  # a vendor's own, of which no value is one too
                    extended.pax[keyword] = value
                else:  # as if it had never been said: POSIX.1-2017 pax, extended header
                    extended.pax.pop(keyword, None)
        elif self._rules is Rules.GUEST:
            raise LayerRefused(f"header type '{shown(flag)}' has no place in a guest's stream")
        elif flag == b"L":
            extended.long_name = tar_fields.text(body)
        elif flag == b"K":
            extended.long_link = tar_fields.text(body)
        # "g" holds defaults for what follows; container tools ignore it, and so do we.

    def _end(self, block: bytes | None) -> None:
        """Read what may follow the last entry."""
        if self._rules is Rules.GUEST:
            if block is None or self._block() != _ZERO_BLOCK:
                raise LayerRefused("the tar stream has no end marker")
            if self._source.read(1):
                raise LayerRefused("there are bytes after the end of the tar stream")
            return
        # Imported: one zero block or none ends it too, and what follows is not looked at.
        while self._source.read(bounds.COPY_CHUNK_BYTES):
            pass

    def _entry(self, start: int, header: bytes, extended: _Extended) -> TarEntry:
        pax = extended.pax
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None or (self._rules is Rules.GUEST and flag in (b"\0", b"7", b"S")):
            raise LayerRefused(f"entry type '{shown(flag)}' is not supported")
        path, slash = self._path(_raw_name(header, extended))
        if slash and kind is Kind.REGULAR and flag == b"\0":
            kind = Kind.DIRECTORY  # as the 7th edition wrote directories
        if not path and kind is not Kind.DIRECTORY:
            raise LayerRefused("the root is not a directory")
        if slash and kind is not Kind.DIRECTORY and self._rules is Rules.GUEST:
            raise LayerRefused(f"'{shown(path)}/' ends in a slash but is not a directory")

        size = _integer(pax, b"size", header[124:136])
        if kind is not Kind.REGULAR:
            if size and self._rules is Rules.GUEST:
                raise LayerRefused(f"'{shown(path)}' is not a regular file but has content")
            # A map would be written out again as content, which nothing but a file may have.
            if any(keyword.startswith(SPARSE_PREFIX) for keyword in pax):
                raise LayerRefused(f"'{shown(path)}' is sparse but not a regular file")
            # Header-only types have no body, whatever their size field says (as Go and GNU read).
            size = 0
        if size < 0:
            raise LayerRefused(f"'{shown(path)}' has a negative size")
        size_bytes, segments, map_bytes = self._sparse(header, pax, size, path)
        self._content_left = size - map_bytes
        self._padding = -size % BLOCK
        return TarEntry(
            path=path,
            kind=kind,
            mode=_mode(header, kind, pax),
            uid=_bounded(_integer(pax, b"uid", header[108:116]), "uid", path),
            gid=_bounded(_integer(pax, b"gid", header[116:124]), "gid", path),
            mtime_s=_mtime(pax, header, path),
            size_bytes=size_bytes,
            link=self._link(kind, path, header, extended),
            device=_device(header, path) if kind in _DEVICES else (0, 0),
            xattrs=_xattrs(pax) if pax else (),
            segments=segments,
            offset=start,
            data_offset=self._position,
            stored_bytes=size - map_bytes,
        )

    def _path(self, raw: bytes) -> tuple[bytes, bool]:
        return member_path(raw) if self._rules is Rules.GUEST else imported_path(raw, "name")

    def _link(self, kind: Kind, path: bytes, header: bytes, extended: _Extended) -> bytes:
        if kind not in (Kind.HARD_LINK, Kind.SYMLINK):
            return b""
        target = extended.pax.get(b"linkpath", extended.long_link)
        if target is None:
            target = tar_fields.text(header[157:257])
        if kind is Kind.SYMLINK:
            return symlink_target(target, path)
        if self._rules is Rules.GUEST:
            return plain_path(target.removeprefix(b"./"), "hard link target")
        return imported_path(target, "hard link target")[0]

    def _sparse(
        self, header: bytes, pax: dict[bytes, bytes], size: int, path: bytes
    ) -> tuple[int, Segments | None, int]:
        """Return the logical size, the data segments, and how many bytes the map took."""
        if header[156:157] == b"S":
            return self._old_gnu(header, pax, size)
        if b"GNU.sparse.major" in pax or b"GNU.sparse.minor" in pax:
            version = (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor"))
            if version != (b"1", b"0"):
                raise LayerRefused(f"'{shown(path)}' is sparse in an unknown format")
            real = tar_fields.pax_integer(pax.get(b"GNU.sparse.realsize", b""), "realsize")
            pairs, map_bytes = read_map(self._exactly, size)
        elif b"GNU.sparse.map" in pax:
            real = tar_fields.pax_integer(pax.get(b"GNU.sparse.size", b""), "GNU.sparse.size")
            pairs, map_bytes = tar_fields.pax_sparse_map(pax[b"GNU.sparse.map"]), 0
        elif b"GNU.sparse.numblocks" in pax or b"GNU.sparse.offset" in pax:
            raise LayerRefused(
                f"'{shown(path)}' is sparse in pax format 0.0, which is not supported"
            )
        else:
            return size, None, 0
        segments = tar_fields.checked_segments(pairs, real)
        return real, _matching(segments, size - map_bytes), map_bytes

    def _old_gnu(
        self, header: bytes, pax: dict[bytes, bytes], size: int
    ) -> tuple[int, Segments, int]:
        pairs = tar_fields.old_gnu_segments(header[386:482], 4)
        more = header[482]
        while more:
            block = self._exactly(BLOCK)
            pairs += tar_fields.old_gnu_segments(block[:504], 21)
            more = block[504]
            if len(pairs) > bounds.SPARSE_SEGMENTS_MAX or (more and not block[:504].strip(b"\0")):
                raise LayerRefused("an old GNU sparse map does not end")
        real = tar_fields.number(header[483:495], "realsize")
        if b"size" in pax:
            raise LayerRefused("an old GNU sparse file has a pax size")
        return real, _matching(tar_fields.checked_segments(pairs, real), size), 0


def _matching(segments: Segments, stored_bytes: int) -> Segments:
    if sum(length for _, length in segments) != stored_bytes:
        raise LayerRefused("a sparse map does not match the stored bytes")
    return segments


def _raw_name(header: bytes, extended: _Extended) -> bytes:
    name = extended.pax.get(b"GNU.sparse.name") or extended.pax.get(b"path")
    if name is None:
        name = extended.long_name
    if name is not None:
        return name
    name = tar_fields.text(header[:100])
    # Only POSIX ustar has a prefix; GNU ("ustar  ") keeps times and sparse maps there.
    if header[257:263] == b"ustar\0" and header[345]:
        return tar_fields.text(header[345:500]) + b"/" + name
    return name


def _mode(header: bytes, kind: Kind, pax: dict[bytes, bytes]) -> int:
    mode = tar_fields.number(header[100:108], "mode") & 0o7777
    return SYMLINK_MODE if kind is Kind.SYMLINK else mode_without_acl(mode, pax)


def _xattrs(pax: dict[bytes, bytes]) -> Xattrs:
    return tuple(pair for pair in tar_fields.xattrs_of(pax) if pair[0] not in ACL_XATTRS)


def _integer(pax: dict[bytes, bytes], keyword: bytes, field: bytes) -> int:
    value = pax.get(keyword)
    if value is not None:
        return tar_fields.pax_integer(value, keyword.decode())
    return tar_fields.number(field, keyword.decode())


def _bounded(value: int, what: str, path: bytes) -> int:
    if not 0 <= value <= bounds.ID_MAX:
        raise LayerRefused(f"'{shown(path)}' has {what} {value}, allowed 0..{bounds.ID_MAX}")
    return value


def _mtime(pax: dict[bytes, bytes], header: bytes, path: bytes) -> int:
    value = _integer(pax, b"mtime", header[136:148])
    if abs(value) > bounds.MTIME_ABS_MAX_S:
        raise LayerRefused(f"'{shown(path)}' has an impossible time")
    return value


def _device(header: bytes, path: bytes) -> tuple[int, int]:
    major = tar_fields.number(header[329:337], "device major")
    minor = tar_fields.number(header[337:345], "device minor")
    if not (0 <= major <= bounds.DEVICE_MAJOR_MAX and 0 <= minor <= bounds.DEVICE_MINOR_MAX):
        raise LayerRefused(f"'{shown(path)}' has device number {major}:{minor}, out of range")
    return major, minor
