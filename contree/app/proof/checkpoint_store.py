"""Where signed checkpoints are kept: outside the database whose log they vouch for.

Implemented by adapters.blobs.checkpoint_directory and adapters.blobs.checkpoint_bucket;
tests/contracts/test_checkpoint_store.py holds them and the fake to this text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contree.domain.errors import ContreeError


class CheckpointExistsError(ContreeError):
    """There is another checkpoint of this size already: it stays as it is."""

    code = "checkpoint_exists"


class CheckpointStore(Protocol):
    """One note for each tree size; what is there is never written again, nor removed."""

    async def put(self, size: int, note: bytes) -> None:
        """Keep `note` durably; the same note again is no error.

        Raises CheckpointExistsError when another one has its place, StorageFullError,
        UnavailableError.
        """
        ...

    async def read(self, size: int) -> bytes:
        """Return the note of this size. Raises NotFoundError, UnavailableError."""
        ...

    async def sizes(self, *, after: int = -1) -> Sequence[int]:
        """Return the sizes beyond `after` of which there are notes, in order.

        Files that are not ours are passed over. Raises UnavailableError.
        """
        ...
