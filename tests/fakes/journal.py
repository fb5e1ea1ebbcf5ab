"""The journal in memory, with what is packed of it. `appended` is told of every append: news for
followers.

`another()` is the same journal as another process has it. Which operations have ended is folded
from the fake log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from contree.app.content.journal_packs import EndedJournal, Pack
from contree.app.journal import JournalEntry, NumberedEntry
from contree.domain import operation as op
from contree.domain.errors import ConflictError
from tests.fakes.event_log import FakeEventLog


class FakeJournal:
    """Implements Journal and JournalPacks."""

    def __init__(self, log: FakeEventLog | None = None) -> None:
        self.appended: Callable[[UUID], None] | None = None
        self._log = log or FakeEventLog()
        self._entries: dict[UUID, list[NumberedEntry]] = {}
        self._next: dict[UUID, int] = {}
        self._expected: dict[UUID, int] = {}
        self._packs: dict[UUID, Pack] = {}
        self._forgotten: set[UUID] = set()

    def another(self) -> FakeJournal:
        other = FakeJournal(self._log)
        other.appended, other._entries, other._next = self.appended, self._entries, self._next
        other._packs, other._forgotten = self._packs, self._forgotten
        return other

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        expected = self._expected.get(operation_id)
        if entries:
            self._require_open(operation_id)
            if expected not in {None, self._next.get(operation_id, 0)}:
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
        count = 0
        for id_ in operation_ids:
            pack = self._packs.get(id_)
            was_packed = pack is not None and pack.size_bytes > 0 and id_ not in self._forgotten
            count += was_packed or self._entries.pop(id_, None) is not None
        self._forgotten |= set(operation_ids) & self._next.keys()
        return count

    async def restart(self, operation_id: UUID) -> int:
        self._require_open(operation_id)
        self._entries.pop(operation_id, None)
        self._next[operation_id] = self._next.get(operation_id, -1) + 1
        self._expected[operation_id] = self._next[operation_id]
        return self._next[operation_id]

    # -- packs --------------------------------------------------------------------------------

    async def ended(self, *, after: UUID | None = None, limit: int) -> Sequence[EndedJournal]:
        found = [
            EndedJournal(
                operation_id=e.originator_id,
                project_id=e.project_id,
                next_number=self._next[e.originator_id],
                sha256=e.journal_sha256,
            )
            for e in self._log.events
            if isinstance(e, op.OperationSucceeded | op.OperationFailed | op.OperationCancelled)
            and self.is_unpacked(e.originator_id)
            and (after is None or e.originator_id > after)
        ]
        return sorted(found, key=lambda one: one.operation_id)[:limit]

    async def settle(self, journal: EndedJournal, pack: Pack) -> bool:
        id_ = journal.operation_id
        if not self.is_unpacked(id_) or self._next[id_] != journal.next_number:
            return False
        self._packs[id_] = pack
        self._entries.pop(id_, None)
        return True

    async def pack_of(self, operation_id: UUID) -> Pack | None:
        return None if operation_id in self._forgotten else self._packs.get(operation_id)

    def is_unpacked(self, operation_id: UUID) -> bool:
        closed = self._packs.keys() | self._forgotten
        return operation_id in self._next and operation_id not in closed

    def digests_of(self, operation_id: UUID) -> set[str]:
        pack = self._packs.get(operation_id)
        return set() if pack is None else {pack.sha256}

    def _require_open(self, operation_id: UUID) -> None:
        if operation_id in self._packs or operation_id in self._forgotten:
            raise ConflictError(f"the journal of operation {operation_id} has ended")
