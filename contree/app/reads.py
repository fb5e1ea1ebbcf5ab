"""The read side: rows that the API and the command line show, and who answers for them.

Implemented by contree.projections, over tables that the log can rebuild at any time. `since` and
`until` are inclusive bounds on `created_at`. All lists are newest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from contree.domain.operation import Kind, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list. `limit` 1..1000, `offset` from 0."""

    limit: int = 100
    offset: int = 0
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One (image, tag) pair; an untagged image is one row with tag None.

    depth  number of runs from the import up to the image; 0 for an import
    """

    image_id: UUID
    project_id: UUID
    tag: str | None
    created_at: datetime
    operation_id: UUID | None
    parent_image_id: UUID | None
    depth: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationSummary:
    """An operation as last known, as lists have it."""

    operation_id: UUID
    project_id: UUID
    kind: Kind
    status: Status
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_us: int
    worker: str | None
    image_id: UUID | None
    result_image_id: UUID | None
    result_tag: str | None
    image_size_bytes: int | None
    outcome: Mapping[str, Any] | None
    replay_of: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRow(OperationSummary):
    """All of it. `request` is the recorded spec (run) or import request."""

    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    file_id: UUID
    sha256: str
    size_bytes: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token; `content_cut` and `erased_at` are its project's (ProjectRow)."""

    token_id: UUID
    project_id: UUID
    project_name: str
    permissions: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    content_cut: datetime | None = None
    erased_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRow:
    """A project, and what becomes of its content.

    hold_reason     under a legal hold, for this reason
    retention_days  None: content is kept for ever
    content_cut     content of operations that ended before is gone, or going
    swept_cut       content of operations that ended before is removed from disk
    erased_at       its data key was destroyed then
    cleared_at      what it left on disk was removed then
    """

    project_id: UUID
    name: str
    created_at: datetime
    hold_reason: str | None = None
    retention_days: int | None = None
    content_cut: datetime | None = None
    swept_cut: datetime | None = None
    erased_at: datetime | None = None
    cleared_at: datetime | None = None


class ImageReads(Protocol):
    async def get(self, project_id: UUID, image_id: UUID) -> ImageRow | None:
        """One row of the image; `tag` is its newest tag."""
        ...

    async def by_tag(self, project_id: UUID, tag: str) -> ImageRow | None: ...

    async def stack(self, project_id: UUID, image_id: UUID) -> Sequence[str]:
        """The diff_ids of all layers of the image, bottom to top. Raises NotFoundError."""
        ...

    async def tags_of(self, project_id: UUID, image_id: UUID) -> Sequence[str]: ...

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        tagged: bool = False,
        tag_prefix: str | None = None,
        image_id: UUID | None = None,
    ) -> Sequence[ImageRow]:
        """With `tag_prefix`, an exact match comes first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """So many `operations` of one kind have this status; `worker` None when nobody has them."""

    kind: Kind
    status: Status
    worker: str | None
    operations: int


class OperationReads(Protocol):
    async def get(self, project_id: UUID, operation_id: UUID) -> OperationRow | None: ...

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationSummary]: ...

    async def project_of(self, operation_id: UUID) -> UUID | None:
        """Whose the operation is; None when it is not known."""
        ...

    async def counts(self, project_id: UUID) -> Mapping[str, int]:
        """Number of operations by status word, all six present."""
        ...

    async def as_many_wait(self, project_id: UUID, number: int) -> bool:
        """Whether `number` or more of the project's operations are PENDING; reads no more rows."""
        ...

    async def under_way(self) -> Sequence[UnderWay]:
        """Count every project's operations that have not ended; nothing stands for none."""
        ...


class FileReads(Protocol):
    async def get(self, project_id: UUID, file_id: UUID) -> FileRow | None: ...

    async def many(self, project_id: UUID, file_ids: Sequence[UUID]) -> Mapping[UUID, FileRow]:
        """Return those of the files that the project has, by id."""
        ...

    async def by_sha256(self, project_id: UUID, sha256: str) -> FileRow | None: ...

    async def list(self, project_id: UUID, page: Page) -> Sequence[FileRow]: ...


class TokenReads(Protocol):
    async def by_secret_sha256(self, secret_sha256: str) -> TokenRow | None: ...

    async def list(self) -> Sequence[TokenRow]: ...

    async def active_of(self, project_id: UUID) -> Sequence[UUID]:
        """The project's tokens that are not revoked."""
        ...


class ProjectReads(Protocol):
    async def get(self, project_id: UUID) -> ProjectRow | None: ...

    async def list(self) -> Sequence[ProjectRow]:
        """All, by name."""
        ...

    async def to_tend(self) -> Sequence[ProjectRow]:
        """Those whose content may have to be removed: erased and not cleared, or with a retention
        or something expired, and no legal hold; by name.
        """
        ...
