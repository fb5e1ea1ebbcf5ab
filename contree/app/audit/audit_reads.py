"""What can be asked about the recorded history, and what is answered.

Implemented by contree.projections (AuditReads, PastReads) over the audit index and the log. A
position is a place in the whole log; "as of P" means: as the first events up to P tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from contree.app.reads import ImageRow, OperationRow, OperationSummary, Page
from contree.app.recorded_log import RecordedEvent
from contree.domain.operation import Kind, Status

POSITION_MAX = 2**63 - 1
PAGE_BYTES_MAX = 2 * 1024**2
"""Of the events' states in one page; the last one may pass it."""

LINEAGE_COMMAND_CHARS = 1000
LINEAGE_ARGS_BYTES = 1000
SCAN_POSITIONS_MAX = 1_000_000
"""Positions that one call looks through for what no single index finds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events: those that meet every condition; None is no condition.

    image_id, tag   events that name it, in whatever role
    types           any of these
    """

    project_id: UUID | None = None
    actor: str | None = None
    operation_id: UUID | None = None
    image_id: UUID | None = None
    tag: str | None = None
    types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which part of the log: beyond `after`, up to and including `until`."""

    after: int = 0
    until: int = POSITION_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One event as the log has it. `facts` are its decoded fields, context included."""

    event: RecordedEvent
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEntries:
    """A page. `rest` is what of the span is not looked through yet, None at its end."""

    entries: Sequence[AuditEntry]
    rest: Span | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingOperation:
    """What made an image, in few words.

    command, args   of a run: the first LINEAGE_COMMAND_CHARS characters; None for args that take
                    more than LINEAGE_ARGS_BYTES as JSON, and for those that are content
    registry_url    of an import
    """

    operation_id: UUID
    kind: Kind
    command: str | None
    args: Sequence[str] | None
    registry_url: str | None
    exit_code: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedImage:
    """An image in the history of another one.

    depth       generations from the image that was asked about: negative for ancestors
    operation   what made it, None for one without
    """

    image_id: UUID
    parent_image_id: UUID | None
    depth: int
    created_at: datetime
    tags: tuple[str, ...]
    operation: MakingOperation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Ancestors up to the import, the image, descendants; by depth, then by age.

    truncated   there are more, beyond the depth or the limit
    """

    image_id: UUID
    project_id: UUID
    images: Sequence[RelatedImage]
    truncated: bool


class AuditReads(Protocol):
    """Looks into the history, as far as the index reaches."""

    async def entries(
        self, wanted: AuditFilter, span: Span, *, limit: int, newest_first: bool = False
    ) -> FoundEntries:
        """Return at most `limit` entries in the order of their positions.

        Fewer when they hold PAGE_BYTES_MAX bytes. The work is bounded: a page may be short, even
        empty, with a `rest` to go on from.
        """
        ...

    async def position_at(self, moment: datetime, *, inclusive: bool = True) -> int:
        """Return the last position recorded at or (not `inclusive`) before `moment`; 0 if none.

        Time is the log's: it stands still where the database's clock went backwards.
        """
        ...

    async def time_of(self, position: int) -> datetime:
        """Return the log's time at `position`; NEVER at the beginning."""
        ...

    async def lineage(
        self, project_id: UUID | None, image_id: UUID, *, depth: int, limit: int
    ) -> Lineage | None:
        """Return the image's relatives, None when the project (or, None, any) has no such image."""
        ...


class ImagesSeen(Protocol):
    """The images of `ImageReads`, now or then."""

    async def get(self, project_id: UUID, image_id: UUID) -> ImageRow | None: ...

    async def by_tag(self, project_id: UUID, tag: str) -> ImageRow | None: ...

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        tagged: bool = False,
        tag_prefix: str | None = None,
        image_id: UUID | None = None,
    ) -> Sequence[ImageRow]: ...


class OperationsSeen(Protocol):
    """The operations of `OperationReads`, now or then."""

    async def get(self, project_id: UUID, operation_id: UUID) -> OperationRow | None: ...

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationSummary]: ...


class PastReads(Protocol):
    """The read side as it was, as far as the index reaches."""

    def images(self, position: int) -> ImagesSeen: ...

    def operations(self, position: int) -> OperationsSeen: ...
