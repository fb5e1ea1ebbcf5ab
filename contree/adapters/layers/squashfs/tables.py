"""Tables of a squashfs while they grow, and how they are written: in blocks of metadata.

What may be large (a hostile layer may have millions of names) grows in files without a name beside
the image; nothing but small numbers is held in memory for each entry.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from contree.adapters.layers.squashfs.format import (
    IDS_MAX,
    METADATA_BYTES,
    NO_XATTRS,
    UNCOMPRESSED_METADATA,
    reference,
)
from contree.adapters.layers.tar.entry import Xattrs
from contree.domain.errors import LayerRefused

_IN_MEMORY_BYTES: Final = 4 * 1024**2
_PREFIXES: Final = ((0, b"user."), (1, b"trusted."), (2, b"security."))
"""All that squashfs has numbers for."""

Write = Callable[[bytes], object]


class Table:
    """Bytes to which records are appended, until they are written to the image."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by `close`
            _IN_MEMORY_BYTES, dir=str(directory)
        )
        self.size_bytes = 0

    def append(self, record: bytes) -> int:
        """Return its position."""
        position = self.size_bytes
        self._file.write(record)
        self.size_bytes += len(record)
        return position

    def close(self) -> None:
        self._file.close()

    def write_to(self, write: Write) -> None:
        """Write it in blocks."""
        self._file.seek(0)
        _write_blocks(iter(lambda: self._file.read(METADATA_BYTES), b""), write)


class IdTable:
    """Each user and group once. Raises LayerRefused past IDS_MAX."""

    def __init__(self) -> None:
        self._indexes: dict[int, int] = {}

    def index(self, number: int) -> int:
        index = self._indexes.setdefault(number, len(self._indexes))
        if index >= IDS_MAX:
            raise LayerRefused(f"the layer has more than {IDS_MAX} users and groups")
        return index

    def __len__(self) -> int:
        return len(self._indexes)

    def packed(self) -> bytes:
        return array("I", self._indexes).tobytes()


class XattrTable:
    """Each set of attributes once; inodes say its number."""

    def __init__(self, directory: Path) -> None:
        self._pairs = Table(directory)
        self._sets = Table(directory)
        self._numbers: dict[bytes, int] = {}

    def number(self, xattrs: Xattrs) -> int:
        """Return the number of the set of those attributes that squashfs can hold."""
        records = [record for pair in xattrs for record in _xattr(*pair)]
        if not records:
            return NO_XATTRS
        packed = b"".join(records)
        digest = hashlib.sha256(packed).digest()
        known = self._numbers.get(digest)
        if known is None:
            known = self._numbers[digest] = len(self._numbers)
            position = self._pairs.append(packed)
            self._sets.append(struct.pack("<Q2I", reference(position), len(records), len(packed)))
        return known

    def write_to(self, write: Write, at: int) -> int:
        """Write it where the image has its byte `at`; return where squashfs begins to read it."""
        self._pairs.write_to(write)
        sets_at = at + stored_bytes(self._pairs.size_bytes)
        self._sets.write_to(write)
        head_at = sets_at + stored_bytes(self._sets.size_bytes)
        write(struct.pack("<Q2I", at, len(self._numbers), 0))
        write(_positions(sets_at, self._sets.size_bytes))
        return head_at

    def __len__(self) -> int:
        return len(self._numbers)

    def close(self) -> None:
        self._pairs.close()
        self._sets.close()


def write_indexed(packed: bytes, write: Write, at: int) -> int:
    """Write a table with the list of its blocks behind it; return where in the image that list is.

    `at` is the image's byte that is written next.
    """
    blocks = (packed[n : n + METADATA_BYTES] for n in range(0, len(packed), METADATA_BYTES))
    _write_blocks(blocks, write)
    write(_positions(at, len(packed)))
    return at + stored_bytes(len(packed))


def stored_bytes(size_bytes: int) -> int:
    """How long a table is once it is cut into blocks."""
    return size_bytes + 2 * _block_count(size_bytes)


def _positions(at: int, size_bytes: int) -> bytes:
    step = METADATA_BYTES + 2
    return array("Q", range(at, at + step * _block_count(size_bytes), step)).tobytes()


def _block_count(size_bytes: int) -> int:
    return -(-size_bytes // METADATA_BYTES)


def _write_blocks(blocks: Iterable[bytes], write: Write) -> None:
    for block in blocks:
        write(struct.pack("<H", len(block) | UNCOMPRESSED_METADATA) + block)


def _xattr(name: bytes, value: bytes) -> Iterator[bytes]:
    for number, prefix in _PREFIXES:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            yield (
                struct.pack("<2H", number, len(rest)) + rest + struct.pack("<I", len(value)) + value
            )
