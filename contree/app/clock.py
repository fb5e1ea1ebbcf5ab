"""Time and identity: the two things a pure domain cannot make. Only adapters.system makes them."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> datetime:
        """Return the time, aware, UTC, microsecond resolution."""
        ...


class IdSource(Protocol):
    """Fresh ids and secrets."""

    def new_id(self) -> UUID:
        """Return an id never returned before (random, RFC 9562 version 4)."""
        ...

    def new_secret(self) -> str:
        """Return a URL-safe bearer secret of at least 256 random bits."""
        ...
