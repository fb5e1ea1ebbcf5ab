"""How the deployment stands at this moment: what a monitoring system asks for again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from contree.app.audit.audit_index import AuditProgress
from contree.app.proof.log_tree import LogTree
from contree.app.reads import OperationReads, UnderWay
from contree.app.recorded_log import RecordedLog
from contree.domain.checkpoint import Checkpoint
from contree.domain.note import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What holds now.

    under_way         operations that have not ended, counted
    log_position      of the last event
    index_position    of the last event in the audit index
    checkpoint_size   events under the newest signed checkpoint, 0 without one
    checkpoint_at     when it was signed; None without one, or when it does not say
    """

    under_way: Sequence[UnderWay]
    log_position: int
    index_position: int
    checkpoint_size: int
    checkpoint_at: datetime | None


class TakeStanding:
    """Asks everybody who knows a part of it."""

    def __init__(
        self,
        *,
        recorded: RecordedLog,
        operations: OperationReads,
        index: AuditProgress,
        tree: LogTree,
    ) -> None:
        self._recorded = recorded
        self._operations = operations
        self._index = index
        self._tree = tree

    async def now(self) -> Standing:
        """Raises UnavailableError, also while a part is being made anew."""
        newest = await self._tree.newest_note()
        signed = None if newest is None else Checkpoint.parse(Note.parse(newest[1]).text)
        return Standing(
            # The index before the log: it is never seen ahead of it.
            index_position=(await self._index.reached(0, within_s=0)).position,
            log_position=await self._recorded.head(),
            under_way=await self._operations.under_way(),
            checkpoint_size=0 if signed is None else signed.size,
            checkpoint_at=None if signed is None else signed.at,
        )
