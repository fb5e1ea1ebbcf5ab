"""A clock that stands still until told, and ids that count: the same in every run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class FakeClock:
    """Moves only by `advance`."""

    def __init__(self, at: datetime = EPOCH) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


class FakeIds:
    """Ids 1, 2, 3, ... in the form of RFC 9562 version 4; secrets that name their number."""

    def __init__(self, *, space: int = 0) -> None:
        self._space = space
        self._count = 0

    def new_id(self) -> UUID:
        self._count += 1
        return UUID(int=(self._space << 96) | (0x4 << 76) | (0x8 << 60) | self._count)

    def new_secret(self) -> str:
        self._count += 1
        return f"contree_fake-secret-{self._count:030d}"
