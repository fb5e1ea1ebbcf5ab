"""Which journals are packed: no rows any more, but one content of their project (ADR 21).

Implemented by adapters.postgres.journal_packs; tests/contracts/test_journal_packs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJournal:
    """A journal that is to be packed: its operation has ended.

    next_number  as Journal.next_number
    sha256       the digest that the log has of it (hex); None when the end came without one
    """

    operation_id: UUID
    project_id: UUID
    next_number: int
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Where a packed journal lies: the project's content `sha256` (hex); 0 bytes lie nowhere."""

    project_id: UUID
    sha256: str
    size_bytes: int


class JournalPacks(Protocol):
    """Every method may raise UnavailableError."""

    async def ended(self, *, after: UUID | None = None, limit: int) -> Sequence[EndedJournal]:
        """Return at most `limit` that are to be packed, in the order of ids, beyond `after`."""
        ...

    async def settle(self, journal: EndedJournal, pack: Pack) -> bool:
        """Let the entries go, in one step with the record that `pack` has them. From then on
        nothing can be appended.

        False, and nothing is done, when something was written or forgotten since `journal` was
        returned, or it is packed already.
        """
        ...

    async def pack_of(self, operation_id: UUID) -> Pack | None:
        """None: not packed, or forgotten."""
        ...
