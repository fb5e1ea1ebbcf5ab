"""Fields of a tar header, and records of a pax extended header: bytes to values, strictly.

Sources: POSIX.1-2017 pax (ustar and extended headers), GNU tar manual "Basic Tar Format" (base-256
numbers, old sparse headers). The bytes are hostile; every function returns a bounded value or
raises LayerRefused. Nothing here reads a stream.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Segments, Xattrs, shown
from contree.domain.errors import LayerRefused

XATTR_PREFIX: Final = b"SCHILY.xattr."
_DECIMAL = re.compile(rb"-?[0-9]{1,20}(\.[0-9]{0,20})?\Z")
_UNSIGNED = re.compile(rb"[0-9]{1,20}\Z")
_OCTAL = re.compile(rb"[0-7]*\Z")


def checksum_ok(block: bytes) -> bool:
    """Tell whether the header's checksum is right, unsigned or (as old writers had it) signed."""
    stored = block[148:156].strip(b" \0")
    if not _OCTAL.match(stored) or not stored:
        return False
    wanted = int(stored, 8)
    plain = block[:148] + b"        " + block[156:]
    return wanted in (sum(plain), sum(struct.unpack("512b", plain)))


def number(field: bytes, what: str) -> int:
    """Decode a numeric header field: octal digits, or GNU base-256 when the top bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not _OCTAL.match(digits):
        raise LayerRefused(f"tar header: {what} is not a number")
    return int(digits, 8) if digits else 0


def text(field: bytes) -> bytes:
    """Return a NUL-terminated header field."""
    return field.split(b"\0", 1)[0]


def pax_records(payload: bytes) -> dict[bytes, bytes]:
    """Decode an extended header; of a repeated keyword the last value counts, as POSIX has it."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 21)
        if space < 0 or not _UNSIGNED.match(payload[at:space]):
            raise LayerRefused("pax header: a record has no length")
        length = int(payload[at:space])
        end = at + length
        equals = payload.find(b"=", space, end)
        if end > len(payload) or equals < 0 or payload[end - 1 : end] != b"\n":
            raise LayerRefused("pax header: a record is malformed")
        keyword = payload[space + 1 : equals]
        if not keyword or b"\0" in keyword:
            raise LayerRefused("pax header: a keyword is empty or has a NUL byte")
        records[keyword] = payload[equals + 1 : end - 1]
        at = end
    return records


def pax_integer(value: bytes, what: str) -> int:
    """Decode a decimal record; fractions of a second are rounded down."""
    if not _DECIMAL.match(value):
        raise LayerRefused(f"pax header: {what} is not a number")
    whole, _, fraction = value.partition(b".")
    result = int(whole)
    # "-0.5" lies in second -1: the sign would be lost on the whole part alone.
    return result - 1 if whole.startswith(b"-") and fraction.strip(b"0") else result


def xattrs_of(records: dict[bytes, bytes]) -> Xattrs:
    """Return the extended attributes, sorted, within the kernel's bounds."""
    found = []
    for keyword, value in records.items():
        if not keyword.startswith(XATTR_PREFIX):
            continue
        name = keyword[len(XATTR_PREFIX) :]
        if not 0 < len(name) <= bounds.XATTR_NAME_BYTES_MAX:
            raise LayerRefused(
                f"an xattr name is empty or over {bounds.XATTR_NAME_BYTES_MAX} bytes"
            )
        if len(value) > bounds.XATTR_VALUE_BYTES_MAX:
            raise LayerRefused(
                f"xattr '{shown(name)}' is over {bounds.XATTR_VALUE_BYTES_MAX} bytes"
            )
        found.append((name, value))
    return tuple(sorted(found))


def checked_segments(pairs: list[tuple[int, int]], size_bytes: int) -> Segments:
    """Return the data segments of a sparse file of `size_bytes`, empty ones dropped.

    Raises LayerRefused unless they rise, do not overlap and lie within the file.
    """
    if len(pairs) > bounds.SPARSE_SEGMENTS_MAX:
        raise LayerRefused(f"a sparse file has over {bounds.SPARSE_SEGMENTS_MAX} segments")
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0:
            raise LayerRefused("a sparse map is not in order")
        end = offset + length
    if end > size_bytes:
        raise LayerRefused("a sparse map reaches past the end of its file")
    return tuple((offset, length) for offset, length in pairs if length)


def pax_sparse_map(value: bytes) -> list[tuple[int, int]]:
    """Decode GNU.sparse.map of format 0.1: `offset,length,offset,length...`."""
    fields = value.split(b",") if value else []
    if len(fields) % 2 or not all(_UNSIGNED.match(field) for field in fields):
        raise LayerRefused("GNU.sparse.map is malformed")
    numbers = [int(field) for field in fields]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def old_gnu_segments(area: bytes, count: int) -> list[tuple[int, int]]:
    """Decode `count` (offset, length) pairs of 12 + 12 bytes; an empty length ends the list."""
    pairs = []
    for at in range(0, count * 24, 24):
        offset, length = area[at : at + 12], area[at + 12 : at + 24]
        if not length.strip(b" \0"):
            break
        pairs.append((number(offset, "sparse offset"), number(length, "sparse length")))
    return pairs
