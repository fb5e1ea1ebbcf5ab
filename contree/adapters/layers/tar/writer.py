"""Tar headers, in one form only: equal entries give equal bytes.

The form (used for canonical layers and archives): POSIX ustar header, owner
names empty, whole-second mtime, device numbers only for devices, never the ustar prefix field; a
pax header comes before it only for what ustar cannot say, its records in the order of their
keywords (`hdrcharset` first, since it rules what follows). No access or change times, ever.
"""

from __future__ import annotations

from typing import Final

from contree.adapters.layers.tar.bounds import BLOCK_BYTES
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.adapters.layers.tar.fields import XATTR_PREFIX
from contree.adapters.layers.tar.sparse_map import write_map

END_OF_ARCHIVE: Final = bytes(2 * BLOCK_BYTES)
_FLAGS: Final = {
    Kind.REGULAR: b"0",
    Kind.HARD_LINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER_DEVICE: b"3",
    Kind.WHITEOUT: b"3",
    Kind.BLOCK_DEVICE: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_ID_OCTAL_MAX: Final = 0o7777777
_SIZE_OCTAL_MAX: Final = 0o77777777777
_NAME_FIELD_BYTES: Final = 100
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_PAX_NAME: Final = b"././@PaxHeader"


def padding(size: int) -> bytes:
    """The zeros after content of `size` bytes."""
    return bytes(-size % BLOCK_BYTES)


def header(entry: TarEntry, *, name: bytes | None = None) -> bytes:
    """Return all header bytes of `entry`; for a sparse file also its map.

    `name` replaces the path as it is written (`./` for the root, otherwise the path itself);
    directories get their slash here. What must follow: `entry.stored_bytes` of content and
    `padding(entry.stored_bytes)`.
    """
    wire = (entry.path or b".") if name is None else name
    if entry.kind is Kind.DIRECTORY:
        wire += b"/"
    pax: dict[bytes, bytes] = {XATTR_PREFIX + key: value for key, value in entry.xattrs}
    sparse_map = b""
    size = entry.stored_bytes if entry.kind is Kind.REGULAR else 0
    if entry.segments is not None:
        sparse_map = write_map(entry.segments, entry.size_bytes)
        size += len(sparse_map)
        pax |= {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": wire,
            b"GNU.sparse.realsize": b"%d" % entry.size_bytes,
        }
    fields = (
        _name_field(pax, b"path", wire),
        b"%07o\0" % entry.mode,
        _number_field(pax, b"uid", entry.uid, _ID_OCTAL_MAX, 7),
        _number_field(pax, b"gid", entry.gid, _ID_OCTAL_MAX, 7),
        _number_field(pax, b"size", size, _SIZE_OCTAL_MAX, 11),
        _number_field(pax, b"mtime", entry.mtime_s, _SIZE_OCTAL_MAX, 11),
        b"        ",
        _FLAGS[entry.kind],
        _name_field(pax, b"linkpath", entry.link),
        b"ustar\x0000",
        bytes(64),
        (b"%07o\0%07o\0" % entry.device) if entry.kind in _DEVICES else b"0000000\x000000000\0",
        bytes(167),
    )
    return _pax_header(pax) + _summed(b"".join(fields)) + sparse_map


def _name_field(pax: dict[bytes, bytes], keyword: bytes, value: bytes) -> bytes:
    if len(value) > _NAME_FIELD_BYTES or not value.isascii():
        pax[keyword] = value
    return value[:_NAME_FIELD_BYTES].ljust(_NAME_FIELD_BYTES, b"\0")


def _number_field(
    pax: dict[bytes, bytes], keyword: bytes, value: int, octal_max: int, digits: int
) -> bytes:
    if not 0 <= value <= octal_max:
        pax[keyword] = b"%d" % value
        value = 0
    return b"%0*o\0" % (digits, value)


def _summed(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax_header(pax: dict[bytes, bytes]) -> bytes:
    if not pax:
        return b""
    records = [_record(key, pax[key]) for key in sorted(pax)]
    if not all(_is_utf8(pax.get(key, b"")) for key in (b"path", b"linkpath")):
        records.insert(0, _record(b"hdrcharset", b"BINARY"))
    body = b"".join(records)
    fields = (
        _PAX_NAME.ljust(_NAME_FIELD_BYTES, b"\0"),
        b"0000644\x000000000\x000000000\0",
        b"%011o\x0000000000000\0" % len(body),
        b"        x",
        bytes(100),
        b"ustar\x0000",
        bytes(64),
        b"0000000\x000000000\0",
        bytes(167),
    )
    return _summed(b"".join(fields)) + body + padding(len(body))


def _record(keyword: bytes, value: bytes) -> bytes:
    """`length keyword=value` and a newline, where the length counts its own digits."""
    body = len(keyword) + len(value) + 3
    length = body + len(str(body))
    if len(str(length)) != len(str(body)):
        length = body + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
