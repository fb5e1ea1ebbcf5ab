"""The read side over the fake event log: every call folds the whole log, in plain Python.

Written apart from `contree.projections`, so that the contract suite compares two opinions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from contree.app.images.ancestry import LineImage
from contree.app.reads import (
    FileRow,
    ImageRow,
    OperationRow,
    OperationSummary,
    Page,
    ProjectRow,
    TokenRow,
    UnderWay,
)
from contree.domain import operation as op
from contree.domain import project as pr
from contree.domain.errors import NotFoundError
from contree.domain.file import FileUploaded, FileUploadedAgain
from contree.domain.image import ImageCommitted, ImageImported
from contree.domain.operation import Kind, Status
from contree.domain.project import ProjectCreated, ProjectErased, RetentionApplied
from contree.domain.tag import TagAssigned, TagMoved, TagRemoved
from contree.domain.token import TokenIssued, TokenRevoked
from tests.fakes.event_log import FakeEventLog

Row = TypeVar("Row", ImageRow, OperationRow, FileRow)


def _within(rows: Iterable[Row], page: Page) -> list[Row]:
    return [
        r
        for r in rows
        if (page.since is None or r.created_at >= page.since)
        and (page.until is None or r.created_at <= page.until)
    ]


class FakeImageReads:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def get(self, project_id: UUID, image_id: UUID) -> ImageRow | None:
        row = self._images().get(image_id)
        if row is None or row.project_id != project_id:
            return None
        tags = await self.tags_of(project_id, image_id)
        return replace(row, tag=tags[0] if tags else None)

    async def by_tag(self, project_id: UUID, tag: str) -> ImageRow | None:
        target = self._tags().get((project_id, tag))
        row = None if target is None else self._images().get(target[0])
        return None if row is None else replace(row, tag=tag)

    async def stack(self, project_id: UUID, image_id: UUID) -> Sequence[str]:
        made = {
            e.originator_id: e
            for e in self._log.events
            if isinstance(e, ImageImported | ImageCommitted) and e.project_id == project_id
        }
        layers: list[str] = []
        if image_id not in made:
            raise NotFoundError("image", image_id)
        while isinstance(image := made[image_id], ImageCommitted):
            layers = [*([] if image.layer is None else [image.layer]), *layers]
            image_id = image.parent_image_id
        return [*image.layers, *layers]

    async def tags_of(self, project_id: UUID, image_id: UUID) -> Sequence[str]:
        found = [
            (at, name)
            for (project, name), (image, at) in self._tags().items()
            if project == project_id and image == image_id
        ]
        found.sort(key=lambda pair: pair[1])
        found.sort(key=lambda pair: pair[0], reverse=True)
        return [name for _, name in found]

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        tagged: bool = False,
        tag_prefix: str | None = None,
        image_id: UUID | None = None,
    ) -> Sequence[ImageRow]:
        rows: list[ImageRow] = []
        for row in self._images().values():
            if row.project_id != project_id or image_id not in {None, row.image_id}:
                continue
            tags: Sequence[str | None] = await self.tags_of(project_id, row.image_id)
            if not tags and not tagged and tag_prefix is None:
                tags = [None]
            rows += [replace(row, tag=tag) for tag in tags]
        if tag_prefix is not None:
            rows = [r for r in rows if r.tag is not None and r.tag.startswith(tag_prefix)]
        rows.sort(key=lambda r: r.tag or "")
        rows.sort(key=lambda r: (r.created_at, r.image_id), reverse=True)
        if tag_prefix is not None:
            rows.sort(key=lambda r: r.tag != tag_prefix)
        return _within(rows, page)[page.offset : page.offset + page.limit]

    def _images(self) -> dict[UUID, ImageRow]:
        return {
            e.originator_id: ImageRow(
                image_id=e.originator_id,
                project_id=e.project_id,
                tag=None,
                created_at=e.timestamp,
                operation_id=e.operation_id,
                parent_image_id=e.parent_image_id if isinstance(e, ImageCommitted) else None,
                depth=e.depth if isinstance(e, ImageCommitted) else 0,
                size_bytes=e.size_bytes,
            )
            for e in self._log.events
            if isinstance(e, ImageImported | ImageCommitted)
        }

    def _tags(self) -> dict[tuple[UUID, str], tuple[UUID, datetime]]:
        tags: dict[tuple[UUID, str], tuple[UUID, datetime]] = {}
        for e in self._log.events:
            if isinstance(e, TagAssigned | TagMoved):
                tags[e.project_id, e.name] = (e.image_id, e.timestamp)
            elif isinstance(e, TagRemoved):
                tags.pop((e.project_id, e.name), None)
        return tags


class FakeAncestry:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def line(self, project_id: UUID, image_id: UUID, *, limit: int) -> Sequence[LineImage]:
        made = {
            e.originator_id: e
            for e in self._log.events
            if isinstance(e, ImageImported | ImageCommitted) and e.project_id == project_id
        }
        found: list[LineImage] = []
        at: UUID | None = image_id
        while at in made and len(found) < limit:
            e = made[at]
            is_run = isinstance(e, ImageCommitted)
            layers = ([] if e.layer is None else [e.layer]) if is_run else e.layers
            found.append(
                LineImage(
                    image_id=e.originator_id,
                    parent_image_id=e.parent_image_id if is_run else None,
                    operation_id=e.operation_id,
                    created_at=e.timestamp,
                    layers=tuple(layers),
                )
            )
            at = found[-1].parent_image_id
        return found

    async def nearest_common(self, project_id: UUID, one: UUID, other: UUID) -> UUID | None:
        lines = [
            [image.image_id for image in await self.line(project_id, image_id, limit=10**6)]
            for image_id in (one, other)
        ]
        return next((image_id for image_id in lines[0] if image_id in lines[1]), None)

    async def beginning_with(
        self, prefix: str, project_id: UUID | None, *, limit: int
    ) -> Sequence[tuple[UUID, UUID]]:
        found = sorted(
            (e.originator_id, e.project_id)
            for e in self._log.events
            if isinstance(e, ImageImported | ImageCommitted)
            and project_id in {None, e.project_id}
            and str(e.originator_id).startswith(prefix)
        )
        return found[:limit]

    async def requesters(self, operation_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        return {
            e.originator_id: e.actor
            for e in self._log.events
            if e.originator_id in operation_ids and e.originator_version == 1
        }


def _requested(e: op.ImportRequested | op.InstanceRequested) -> OperationRow:
    if isinstance(e, op.InstanceRequested):
        kind, request, image = Kind.INSTANCE, e.spec, UUID(e.spec["image_id"])
    else:
        kind, image = Kind.IMPORT, None
        request = {
            "registry_url": e.registry_url,
            "username": e.username,
            "tag": e.tag,
            "timeout_s": e.timeout_s,
        }
    return OperationRow(
        operation_id=e.originator_id,
        project_id=e.project_id,
        kind=kind,
        status=Status.PENDING,
        error=None,
        created_at=e.timestamp,
        started_at=None,
        finished_at=None,
        duration_us=0,
        worker=None,
        image_id=image,
        result_image_id=None,
        result_tag=None,
        image_size_bytes=None,
        request=request,
        outcome=None,
        replay_of=e.replay_of if isinstance(e, op.InstanceRequested) else None,
    )


def _followed(row: OperationRow, e: object) -> OperationRow:
    match e:
        case op.OperationAssigned():
            return replace(row, status=Status.ASSIGNED, worker=e.worker, started_at=e.timestamp)
        case op.OperationStarted():
            return replace(row, status=Status.EXECUTING)
        case op.OperationRequeued():
            return replace(row, status=Status.PENDING, worker=None, started_at=None)
        case op.OperationSucceeded():
            return replace(
                row,
                status=Status.SUCCESS,
                finished_at=e.timestamp,
                duration_us=e.duration_us,
                result_image_id=e.result_image_id,
                result_tag=e.result_tag,
                image_size_bytes=e.image_size_bytes,
                outcome=e.outcome,
            )
        case op.OperationFailed():
            return replace(
                row,
                status=Status.FAILED,
                error=e.error.replace("\0", "\ufffd"),
                finished_at=e.timestamp,
                duration_us=e.duration_us,
                outcome=e.outcome,
            )
        case op.OperationCancelled():
            return replace(
                row,
                status=Status.CANCELLED,
                error=e.error,
                finished_at=e.timestamp,
                duration_us=e.duration_us,
            )
        case _:
            return row


class FakeOperationReads:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def get(self, project_id: UUID, operation_id: UUID) -> OperationRow | None:
        row = self._operations().get(operation_id)
        return row if row is not None and row.project_id == project_id else None

    async def list(
        self,
        project_id: UUID,
        page: Page,
        *,
        status: Status | None = None,
        kind: Kind | None = None,
    ) -> Sequence[OperationSummary]:
        rows = [
            summary_of(r)
            for r in _within(self._operations().values(), page)
            if r.project_id == project_id and status in {None, r.status} and kind in {None, r.kind}
        ]
        rows.sort(key=lambda r: (r.created_at, r.operation_id), reverse=True)
        return rows[page.offset : page.offset + page.limit]

    async def project_of(self, operation_id: UUID) -> UUID | None:
        row = self._operations().get(operation_id)
        return None if row is None else row.project_id

    async def counts(self, project_id: UUID) -> Mapping[str, int]:
        counts = {status.value: 0 for status in Status}
        for row in self._operations().values():
            if row.project_id == project_id:
                counts[row.status.value] += 1
        return counts

    async def as_many_wait(self, project_id: UUID, number: int) -> bool:
        return (await self.counts(project_id))[Status.PENDING.value] >= number

    async def under_way(self) -> Sequence[UnderWay]:
        counts = Counter(
            (row.kind, row.status, row.worker)
            for row in self._operations().values()
            if row.finished_at is None
        )
        return [
            UnderWay(kind=kind, status=status, worker=worker, operations=number)
            for (kind, status, worker), number in counts.items()
        ]

    def _operations(self) -> dict[UUID, OperationRow]:
        rows: dict[UUID, OperationRow] = {}
        for e in self._log.events:
            if isinstance(e, op.ImportRequested | op.InstanceRequested):
                rows[e.originator_id] = _requested(e)
            elif e.originator_id in rows:
                rows[e.originator_id] = _followed(rows[e.originator_id], e)
        return rows


def summary_of(row: OperationRow) -> OperationSummary:
    """What lists have of an operation."""
    return OperationSummary(**{f.name: getattr(row, f.name) for f in fields(OperationSummary)})


class FakeFileReads:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def get(self, project_id: UUID, file_id: UUID) -> FileRow | None:
        found = self._files().get(file_id)
        return found[1] if found is not None and found[0] == project_id else None

    async def many(self, project_id: UUID, file_ids: Sequence[UUID]) -> Mapping[UUID, FileRow]:
        found = {file_id: await self.get(project_id, file_id) for file_id in file_ids}
        return {file_id: row for file_id, row in found.items() if row is not None}

    async def by_sha256(self, project_id: UUID, sha256: str) -> FileRow | None:
        for project, row in self._files().values():
            if project == project_id and row.sha256 == sha256:
                return row
        return None

    async def list(self, project_id: UUID, page: Page) -> Sequence[FileRow]:
        rows = _within((r for p, r in self._files().values() if p == project_id), page)
        rows.sort(key=lambda r: (r.created_at, r.file_id), reverse=True)
        return rows[page.offset : page.offset + page.limit]

    def _files(self) -> dict[UUID, tuple[UUID, FileRow]]:
        rows: dict[UUID, tuple[UUID, FileRow]] = {}
        for e in self._log.events:
            if isinstance(e, FileUploaded):
                row = FileRow(
                    file_id=e.originator_id,
                    sha256=e.sha256,
                    size_bytes=e.size_bytes,
                    created_at=e.timestamp,
                    updated_at=e.timestamp,
                )
                rows[e.originator_id] = (e.project_id, row)
            elif isinstance(e, FileUploadedAgain):
                project, row = rows[e.originator_id]
                rows[e.originator_id] = (project, replace(row, updated_at=e.timestamp))
        return rows


class FakeTokenReads:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def by_secret_sha256(self, secret_sha256: str) -> TokenRow | None:
        return self._tokens().get(secret_sha256)

    async def list(self) -> Sequence[TokenRow]:
        rows = sorted(self._tokens().values(), key=lambda r: (r.created_at, r.token_id))
        return rows[::-1]

    async def active_of(self, project_id: UUID) -> Sequence[UUID]:
        return sorted(
            row.token_id
            for row in self._tokens().values()
            if row.project_id == project_id and row.revoked_at is None
        )

    def _tokens(self) -> dict[str, TokenRow]:
        names: dict[UUID, str] = {}
        marks: dict[UUID, dict[str, datetime]] = {}
        rows: dict[UUID, tuple[str, TokenRow]] = {}
        for e in self._log.events:
            if isinstance(e, ProjectCreated):
                names[e.originator_id] = e.name
            elif isinstance(e, RetentionApplied | ProjectErased):
                # The token's row is joined with its project's as it is now.
                marks.setdefault(e.originator_id, {}).update(_mark(e))
            elif isinstance(e, TokenIssued):
                row = TokenRow(
                    token_id=e.originator_id,
                    project_id=e.project_id,
                    project_name=names.get(e.project_id, ""),
                    permissions=frozenset(e.permissions),
                    created_at=e.timestamp,
                    expires_at=e.expires_at,
                    revoked_at=None,
                )
                rows[e.originator_id] = (e.secret_sha256, row)
            elif isinstance(e, TokenRevoked):
                digest, row = rows[e.originator_id]
                rows[e.originator_id] = (digest, replace(row, revoked_at=e.timestamp))
        return {
            digest: replace(row, **marks.get(row.project_id, {})) for digest, row in rows.values()
        }


def _mark(e: RetentionApplied | ProjectErased) -> dict[str, datetime]:
    if isinstance(e, RetentionApplied):
        return {"content_cut": e.cut}
    return {"erased_at": e.timestamp}


class FakeProjectReads:
    def __init__(self, log: FakeEventLog) -> None:
        self._log = log

    async def get(self, project_id: UUID) -> ProjectRow | None:
        return self._projects().get(project_id)

    async def list(self) -> Sequence[ProjectRow]:
        return sorted(self._projects().values(), key=lambda row: row.name)

    async def to_tend(self) -> Sequence[ProjectRow]:
        return [
            row
            for row in await self.list()
            if (row.erased_at is not None and row.cleared_at is None)
            or (
                row.erased_at is None
                and row.hold_reason is None
                and (row.retention_days is not None or row.content_cut != row.swept_cut)
            )
        ]

    def _projects(self) -> dict[UUID, ProjectRow]:
        rows: dict[UUID, ProjectRow] = {}
        for e in self._log.events:
            id_ = e.originator_id
            match e:
                case pr.ProjectCreated():
                    rows[id_] = ProjectRow(project_id=id_, name=e.name, created_at=e.timestamp)
                case pr.ProjectHeld():
                    rows[id_] = replace(rows[id_], hold_reason=e.reason)
                case pr.ProjectReleased():
                    rows[id_] = replace(rows[id_], hold_reason=None)
                case pr.RetentionSet():
                    rows[id_] = replace(rows[id_], retention_days=e.days)
                case pr.RetentionApplied() | pr.ProjectErased():
                    rows[id_] = replace(rows[id_], **_mark(e))
                case pr.ContentRemoved(complete=True):
                    done = (
                        {"swept_cut": e.cut}
                        if e.cause == "retention"
                        else {"cleared_at": e.timestamp}
                    )
                    rows[id_] = replace(rows[id_], **done)
        return rows
