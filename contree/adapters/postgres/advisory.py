"""Keys of advisory locks: 64 bits that nobody else on the same database chooses."""

from __future__ import annotations

import hashlib


def advisory_key(purpose: str, name: str) -> int:
    """Return the lock's key."""
    digest = hashlib.sha256(f"contree {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
