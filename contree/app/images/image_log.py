"""How an image came to be: the images below it, what made each, and what each of them changed.

With paths, only the images that changed one of them. Which layers say anything of a path is read
from their indexes first, so an image whose run touched other files costs one look.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from contree.app.audit.audit_reads import (
    LINEAGE_ARGS_BYTES,
    LINEAGE_COMMAND_CHARS,
    MakingOperation,
)
from contree.app.images.ancestry import Ancestry, LineImage
from contree.app.images.compare_images import CompareImages, DiffOptions, DiffSummary, ImagePair
from contree.app.images.image_comparison import ChangeKind, ImageChange, ImageComparer
from contree.app.reads import ImageReads, OperationReads, OperationRow

LOOKED_MAX: Final = 5000
"""Images that one page looks at, found or not."""

CHANGES_MAX: Final = 1000
"""Of one image and the asked paths, that an entry names."""

_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An image of the log.

    operation  what made it, and whether its command was for a shell
    actor      who asked for that: token id or `operator`
    tags       that point to it now
    changed    against its parent, of all paths; None for an import
    changes    of the asked paths
    """

    image: LineImage
    operation: MakingOperation | None
    shell: bool | None
    actor: str | None
    tags: Sequence[str]
    changed: DiffSummary | None
    changes: Sequence[ImageChange]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """Where to go on: the next image to look at, and the paths that are followed by then."""

    image_id: UUID
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    entries: Sequence[LogEntry]
    rest: LogPlace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An image on the way down.

    stack     its layers, bottom to top
    paths     that were asked for, as they are named in it
    is_found  it changed one of them; true of all when none was asked for
    changes   of the asked paths, against the parent, of an import against nothing
    """

    image: LineImage
    stack: tuple[str, ...]
    paths: tuple[str, ...]
    is_found: bool
    changes: Sequence[ImageChange] = ()

    def pair(self, project_id: UUID) -> ImagePair | None:
        """Return the image's parent and itself; None for an import."""
        parent = self.image.parent_image_id
        if parent is None:
            return None
        return ImagePair(
            project_id=project_id,
            before_id=parent,
            after_id=self.image.image_id,
            base=parent,
            before=self.below,
            after=self.stack,
        )

    @property
    def below(self) -> tuple[str, ...]:
        return self.stack[: len(self.stack) - len(self.image.layers)]


class ImageHistory:
    """Walks down from an image to its import."""

    def __init__(
        self,
        *,
        images: ImageReads,
        ancestry: Ancestry,
        comparer: ImageComparer,
        compare: CompareImages,
    ) -> None:
        self._images = images
        self._ancestry = ancestry
        self._comparer = comparer
        self._compare = compare

    async def steps(
        self, project_id: UUID, image_id: UUID, paths: tuple[str, ...], *, follow: bool
    ) -> AsyncGenerator[Step, None]:
        """Yield a step for the image and each of its ancestors, the newest first.

        With `follow` a file that was renamed is looked for under its older name from there on.
        Raises NotFoundError.
        """
        stack = tuple(await self._images.stack(project_id, image_id))
        at: UUID | None = image_id
        while at is not None:
            for image in await self._ancestry.line(project_id, at, limit=_AT_ONCE):
                step = Step(image=image, stack=stack, paths=paths, is_found=not paths)
                if paths and await self._comparer.names(image.layers, paths):
                    changes = await self._changes(step)
                    olds = await self.older(project_id, step, paths, changes) if follow else {}
                    told = [olds.get(change.path, change) for change in changes]
                    yield replace(step, is_found=bool(told), changes=told)
                    paths = tuple(olds[p].from_path or p if p in olds else p for p in paths)
                else:
                    yield step
                stack, at = step.below, image.parent_image_id

    async def _changes(self, step: Step) -> Sequence[ImageChange]:
        found: list[ImageChange] = []
        changes = self._comparer.changes(step.below, step.stack, paths=step.paths)
        async with aclosing(changes):
            async for some in changes:
                found += some
                if len(found) >= CHANGES_MAX:
                    break
        return found[:CHANGES_MAX]

    async def older(
        self, project_id: UUID, step: Step, paths: Sequence[str], changes: Sequence[ImageChange]
    ) -> dict[str, ImageChange]:
        """Return the renames that brought files to `paths`, by path; `changes` are those there."""
        pair = step.pair(project_id)
        came = {c.path for c in changes if c.kind is ChangeKind.ADDED and c.path in paths}
        found: dict[str, ImageChange] = {}
        if came and pair is not None:
            async with aclosing(self._compare.changes(pair, DiffOptions())) as whole:
                async for some in whole:
                    found |= {c.path: c for c in some if c.from_path and c.path in came}
        return found


def made_by(row: OperationRow) -> MakingOperation:
    """Return an operation in few words: a request may be large, and its arguments elsewhere."""
    command, args = row.request.get("command"), row.request.get("args")
    is_short = args is not None and len(str(args)) <= LINEAGE_ARGS_BYTES
    return MakingOperation(
        operation_id=row.operation_id,
        kind=row.kind,
        command=None if command is None else command[:LINEAGE_COMMAND_CHARS],
        args=args if is_short else None,
        registry_url=row.request.get("registry_url"),
        exit_code=None if row.outcome is None else row.outcome["exit_code"],
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        duration_us=row.duration_us,
    )


class ShowLog:
    def __init__(
        self,
        *,
        history: ImageHistory,
        images: ImageReads,
        operations: OperationReads,
        ancestry: Ancestry,
        compare: CompareImages,
    ) -> None:
        self._history = history
        self._images = images
        self._operations = operations
        self._ancestry = ancestry
        self._compare = compare

    async def page(
        self, project_id: UUID, place: LogPlace, *, follow: bool = False, limit: int
    ) -> LogPage:
        """Return at most `limit` entries from `place` on, the newest first. No paths are all paths.

        A page may be short, even empty, with a `rest`: the work is bounded. Raises NotFoundError.
        """
        found: list[LogEntry] = []
        looked = 0
        rest = None
        steps = self._history.steps(project_id, place.image_id, place.paths, follow=follow)
        async with aclosing(steps):
            async for step in steps:
                if len(found) == limit or looked == LOOKED_MAX:
                    rest = LogPlace(image_id=step.image.image_id, paths=step.paths)
                    break
                looked += 1
                if step.is_found:
                    found.append(await self._entry(project_id, step))
        actors = await self._ancestry.requesters([one.image.operation_id for one in found])
        entries = [replace(one, actor=actors.get(one.image.operation_id)) for one in found]
        return LogPage(entries=entries, rest=rest)

    async def _entry(self, project_id: UUID, step: Step) -> LogEntry:
        pair, image = step.pair(project_id), step.image
        changed = None
        if pair is not None:
            changed = (await self._compare.page(pair, DiffOptions(), limit=1)).summary
        row = await self._operations.get(project_id, image.operation_id)
        return LogEntry(
            image=image,
            operation=None if row is None else made_by(row),
            shell=None if row is None else row.request.get("shell"),
            actor=None,
            tags=await self._images.tags_of(project_id, image.image_id),
            changed=changed,
            changes=step.changes,
        )
