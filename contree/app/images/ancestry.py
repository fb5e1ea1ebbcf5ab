"""Which images are below an image: who made them, with which layers.

Implemented by contree.projections; tests/contracts/test_ancestry.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class LineImage:
    """An image on the way from another one down to its import.

    layers  diff_ids that it adds to its parent, bottom to top: all of an import
    """

    image_id: UUID
    parent_image_id: UUID | None
    operation_id: UUID
    created_at: datetime
    layers: tuple[str, ...]


class Ancestry(Protocol):
    async def line(self, project_id: UUID, image_id: UUID, *, limit: int) -> Sequence[LineImage]:
        """Return the image and its ancestors, the newest first; nothing for an unknown image."""
        ...

    async def nearest_common(self, project_id: UUID, one: UUID, other: UUID) -> UUID | None:
        """Return the newest image that both descend from or are; None when there is none."""
        ...

    async def beginning_with(
        self, prefix: str, project_id: UUID | None, *, limit: int
    ) -> Sequence[tuple[UUID, UUID]]:
        """Return ids and projects of images whose id begins so, of one project or (None) of all.

        `prefix` is 1 to 36 characters of a UUID in its usual form, in lower case.
        """
        ...

    async def requesters(self, operation_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return who asked for the operations: token id or `operator`."""
        ...
