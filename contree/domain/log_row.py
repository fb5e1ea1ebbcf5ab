"""The bytes of one row of the log that hashes cover: of the chain, and of the Merkle tree.

    position    8 bytes  big-endian, signed (all integers here are)
    aggregate  16 bytes  its UUID
    version     8 bytes
    time        8 bytes  microseconds since 2000-01-01 00:00 UTC
    topic       4 bytes length, then UTF-8
    state       4 bytes length, then the event's encoded fields

    chain hash = SHA-256(chain hash of the row before, nothing before the first || row)
    leaf hash  = SHA-256(0x00 || row)

The trigger of the table computes the chain hash from the same bytes in the database.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Where PostgreSQL counts microseconds from."""
LEAF_PREFIX = b"\x00"
"""Keeps leaves and nodes of a Merkle tree apart (RFC 9162, 2.1.1)."""

_MICROSECOND = timedelta(microseconds=1)


def row_bytes(
    *,
    position: int,
    aggregate_id: UUID,
    version: int,
    recorded_at: datetime,
    topic: str,
    state: bytes,
) -> bytes:
    """Return what hashes cover. Raises OverflowError for what no row of the log can hold."""
    topic_bytes = topic.encode()
    return b"".join(
        (
            position.to_bytes(8, "big", signed=True),
            aggregate_id.bytes,
            version.to_bytes(8, "big", signed=True),
            ((recorded_at - EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True),
            len(topic_bytes).to_bytes(4, "big"),
            topic_bytes,
            len(state).to_bytes(4, "big"),
            state,
        )
    )


def chain_hash(previous: bytes, row: bytes) -> bytes:
    """The hash that `row` must have after a row whose hash is `previous`."""
    return hashlib.sha256(previous + row).digest()


def leaf_hash(row: bytes) -> bytes:
    """The hash that stands for `row` in the tree."""
    return hashlib.sha256(LEAF_PREFIX + row).digest()


def position_in(row: bytes) -> int:
    """The position that a row's bytes say."""
    return int.from_bytes(row[:8], "big", signed=True)


def aggregate_in(row: bytes) -> UUID:
    """The aggregate that a row's bytes say."""
    return UUID(bytes=row[8:24])


def time_in(row: bytes) -> datetime:
    """When the database took the row, as its bytes say. Raises OverflowError for no such time."""
    return EPOCH + timedelta(microseconds=int.from_bytes(row[32:40], "big", signed=True))
