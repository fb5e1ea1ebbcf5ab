"""The journal in memory. `appended` is told of every append: news for followers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from contree.app.journal import JournalEntry, NumberedEntry


class FakeJournal:
    def __init__(self) -> None:
        self.appended: Callable[[UUID], None] | None = None
        self._entries: dict[UUID, list[NumberedEntry]] = {}
        self._next: dict[UUID, int] = {}

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        for entry in entries:
            number = self._next.get(operation_id, 0)
            self._next[operation_id] = number + 1
            self._entries.setdefault(operation_id, []).append(
                NumberedEntry(number=number, entry=entry)
            )

        if self.appended is not None:
            self.appended(operation_id)

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        entries = self._entries.get(operation_id, [])
        return [e for e in entries if e.number > after and spid in {None, e.entry.spid}][:limit]

    async def next_number(self, operation_id: UUID) -> int:
        return self._next.get(operation_id, 0)

    async def restart(self, operation_id: UUID) -> None:
        self._entries.pop(operation_id, None)
