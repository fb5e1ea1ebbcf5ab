"""The system clock, and fresh ids and secrets from the kernel's random source (app.clock)."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime
from uuid import UUID, uuid4  # noqa: TID251 - this is the one place

SECRET_PREFIX = "contree_"  # noqa: S105 - public by purpose
"""Lets secret scanners, and people, recognise one of our tokens."""
SECRET_BYTES = 32


class SystemClock:
    """Wall-clock time that never goes backwards within this process, whatever is done to it.

    After the machine's clock was set back it stands still until time has caught up.
    """

    def __init__(self) -> None:
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            self._latest = max(self._latest, datetime.now(UTC))
            return self._latest


class SystemIds:
    def new_id(self) -> UUID:
        return uuid4()

    def new_secret(self) -> str:
        return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
