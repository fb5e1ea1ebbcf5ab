"""Which content belongs to which operation, and who else needs it: what removal asks.

Implemented by adapters.postgres over the read models and the log;
tests/contracts/test_content_index.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationContent:
    """What an operation wrote and was given.

    digests     (hex) stdout, stderr, the packed journal; initial standard input and what is long in
                its request, and both of its further processes
    is_unpacked its journal is still to be packed
    """

    operation_id: UUID
    created_at: datetime
    digests: frozenset[str]
    is_unpacked: bool = False


class ContentIndex(Protocol):
    """Every method may raise UnavailableError."""

    async def ended_count(
        self, project_id: UUID, *, since: datetime | None, before: datetime
    ) -> int:
        """How many operations ended at `since` or later and before `before`."""
        ...

    async def ended(
        self,
        project_id: UUID,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        after: OperationContent | None = None,
        limit: int,
    ) -> Sequence[OperationContent]:
        """Return at most `limit` of these, the first created first, beyond `after`."""
        ...

    async def needed(
        self, project_id: UUID, digests: frozenset[str], *, ended_since: datetime
    ) -> frozenset[str]:
        """Return those of `digests` that a file of the project is, or that an operation has which
        ended at `ended_since` or later, or has not ended. Empty content always is: nearly every
        operation has it, and it tells nothing.
        """
        ...

    async def own_layers(self, project_id: UUID) -> Sequence[str]:
        """The layers that images of this project have and those of no other project."""
        ...

    async def oldest_run(self) -> datetime | None:
        """When the running operation of any project that began first began; None: none runs."""
        ...

    async def unended(self, project_id: UUID) -> Sequence[UUID]:
        """The operations of the project that are pending or running."""
        ...
