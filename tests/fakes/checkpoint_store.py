"""Checkpoints in memory."""

from __future__ import annotations

from collections.abc import Sequence

from contree.app.proof.checkpoint_store import CheckpointExistsError
from contree.domain.errors import ContreeError, NotFoundError


class FakeCheckpointStore:
    """`notes` is what is kept; `failure`, when set, is what every call raises."""

    def __init__(self) -> None:
        self.notes: dict[int, bytes] = {}
        self.failure: ContreeError | None = None

    async def put(self, size: int, note: bytes) -> None:
        self._check()
        if self.notes.setdefault(size, note) != note:
            raise CheckpointExistsError(f"there is another checkpoint over {size} events")

    async def read(self, size: int) -> bytes:
        self._check()
        if size not in self.notes:
            raise NotFoundError("checkpoint", size)
        return self.notes[size]

    async def sizes(self, *, after: int = -1) -> Sequence[int]:
        self._check()
        return sorted(size for size in self.notes if size > after)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
