"""The journal in memory. `appended` is told of every append: news for followers.

`another()` is the same journal as another process has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from contree.app.journal import JournalEntry, NumberedEntry
from contree.domain.errors import ConflictError


class FakeJournal:
    def __init__(self) -> None:
        self.appended: Callable[[UUID], None] | None = None
        self._entries: dict[UUID, list[NumberedEntry]] = {}
        self._next: dict[UUID, int] = {}
        self._expected: dict[UUID, int] = {}

    def another(self) -> FakeJournal:
        other = FakeJournal()
        other.appended, other._entries, other._next = self.appended, self._entries, self._next
        return other

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        expected = self._expected.get(operation_id)
        if entries and expected not in {None, self._next.get(operation_id, 0)}:
            raise ConflictError(f"the journal of operation {operation_id} has another writer")
        for entry in entries:
            number = self._next.get(operation_id, 0)
            self._next[operation_id] = number + 1
            self._entries.setdefault(operation_id, []).append(
                NumberedEntry(number=number, entry=entry)
            )
        if expected is not None:
            self._expected[operation_id] = self._next[operation_id]
        if self.appended is not None:
            self.appended(operation_id)

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        entries = self._entries.get(operation_id, [])
        return [e for e in entries if e.number > after and spid in {None, e.entry.spid}][:limit]

    async def next_number(self, operation_id: UUID) -> int:
        return self._next.get(operation_id, 0)

    async def forget(self, operation_ids: Sequence[UUID]) -> int:
        return sum(self._entries.pop(id_, None) is not None for id_ in operation_ids)

    async def restart(self, operation_id: UUID) -> None:
        self._entries.pop(operation_id, None)
        self._next[operation_id] = self._next.get(operation_id, -1) + 1
        self._expected[operation_id] = self._next[operation_id]
