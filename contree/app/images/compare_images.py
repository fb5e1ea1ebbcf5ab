"""What differs between two images of a project: changes with renames, counts, pages, patches."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from contree.app.images.ancestry import Ancestry
from contree.app.images.git_patch import patch_of, wanted_bytes
from contree.app.images.image_comparison import ChangeKind, ImageChange, ImageComparer
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType, ImageFiles
from contree.app.reads import ImageReads

RENAMED_MAX: Final = 100_000
"""Files removed or added among which renames are looked for; with more, none are told."""

_REMEMBERED_MAX: Final = 32
_REMEMBERED_RENAMES_MAX: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """Two images to be compared. `base` is their nearest common ancestor, None when unrelated."""

    project_id: UUID
    before_id: UUID
    after_id: UUID
    base: UUID | None
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOptions:
    """What of the differences is wanted.

    paths    absolute, normalised: of each the file itself and all below it
    times    also what differs in its time alone
    renames  tell a file that was added and a file that was removed with equal content as one
             renamed file, where just one of each has this content
    """

    paths: tuple[str, ...] = ("/",)
    times: bool = False
    renames: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSummary:
    """How many paths changed how; the bytes are of the regular files among them."""

    counts: Mapping[ChangeKind, int]
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffPage:
    """Some of the changes and the summary of all; `next_path`: go on beyond it, None at the end."""

    changes: Sequence[ImageChange]
    summary: DiffSummary
    next_path: str | None


class Totals:
    """Counts changes as they pass by."""

    def __init__(self) -> None:
        self._counts: Counter[ChangeKind] = Counter()
        self._bytes = [0, 0]

    def add(self, change: ImageChange) -> None:
        self._counts[change.kind] += 1
        for side, entry in enumerate((change.before, change.after)):
            self._bytes[side] += 0 if entry is None else entry.size_bytes

    def renamed(self, count: int) -> None:
        """So many of what was removed and added were renamed."""
        self._counts[ChangeKind.RENAMED] += count
        for kind in (ChangeKind.REMOVED, ChangeKind.ADDED):
            self._counts[kind] -= count

    def summary(self) -> DiffSummary:
        return DiffSummary(
            counts={kind: self._counts[kind] for kind in ChangeKind},
            bytes_before=self._bytes[0],
            bytes_after=self._bytes[1],
        )


class CompareImages:
    def __init__(
        self,
        *,
        images: ImageReads,
        ancestry: Ancestry,
        comparer: ImageComparer,
        files: ImageFiles,
    ) -> None:
        self._images = images
        self._ancestry = ancestry
        self._comparer = comparer
        self._files = files
        self._known: OrderedDict[object, _Prepared] = OrderedDict()

    async def pair(self, project_id: UUID, before_id: UUID, after_id: UUID) -> ImagePair:
        """Return the pair of two images. Raises NotFoundError."""
        return ImagePair(
            project_id=project_id,
            before_id=before_id,
            after_id=after_id,
            before=tuple(await self._images.stack(project_id, before_id)),
            after=tuple(await self._images.stack(project_id, after_id)),
            base=await self._ancestry.nearest_common(project_id, before_id, after_id),
        )

    async def page(
        self, pair: ImagePair, options: DiffOptions, *, limit: int, beyond: str | None = None
    ) -> DiffPage:
        """Return at most `limit` changes whose paths sort after `beyond`."""
        prepared = await self._prepared(pair, options)
        found: list[ImageChange] = []
        changes = self._changes(pair, options, prepared.renames, beyond)
        try:
            async for some in changes:
                found += some
                if len(found) > limit:
                    break
        finally:
            await changes.aclose()
        return DiffPage(
            changes=found[:limit],
            summary=prepared.summary,
            next_path=found[limit - 1].path if len(found) > limit else None,
        )

    async def changes(
        self, pair: ImagePair, options: DiffOptions
    ) -> AsyncGenerator[Sequence[ImageChange], None]:
        """Yield all changes, sorted by the bytes of their paths, in bounded memory."""
        renames = (await self._prepared(pair, options)).renames if options.renames else _Renames()
        changes = self._changes(pair, options, renames, None)
        try:
            async for some in changes:
                yield some
        finally:
            await changes.aclose()

    async def patch(
        self, pair: ImagePair, options: DiffOptions, *, binary: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield a patch that `git apply` takes (git_patch)."""
        changes = self.changes(pair, options)
        try:
            async for some in changes:
                for change in some:
                    if text := await self._patched(pair, change, binary=binary):
                        yield text
        finally:
            await changes.aclose()

    async def _changes(
        self, pair: ImagePair, options: DiffOptions, renames: _Renames, beyond: str | None
    ) -> AsyncGenerator[Sequence[ImageChange], None]:
        found = self._comparer.changes(
            pair.before, pair.after, paths=options.paths, times=options.times, beyond=beyond
        )
        try:
            async for some in found:
                told = [change for one in some if (change := renames.told(one)) is not None]
                if told:
                    yield told
        finally:
            await found.aclose()

    async def _prepared(self, pair: ImagePair, options: DiffOptions) -> _Prepared:
        """Return what has to be known of all changes before the first is told."""
        key = (pair.before, pair.after, options)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        totals, moves = Totals(), _Moves()
        found = self._changes(pair, options, _Renames(), None)
        async for some in found:
            for change in some:
                totals.add(change)
                if options.renames:
                    moves.add(change)
        renames = moves.renames()
        totals.renamed(len(renames.sources))
        prepared = _Prepared(renames, totals.summary())
        if len(renames.sources) <= _REMEMBERED_RENAMES_MAX:
            self._known[key] = prepared
            while len(self._known) > _REMEMBERED_MAX:
                self._known.popitem(last=False)
        return prepared

    async def _patched(self, pair: ImagePair, change: ImageChange, *, binary: bool) -> bytes:
        bytes_max = wanted_bytes(change, binary=binary)
        before = after = None
        if bytes_max >= 0:
            before = await self._read(pair.before, change.path, change.before)
            after = await self._read(pair.after, change.path, change.after)

        def text() -> bytes:
            return b"".join(patch_of(change, before, after, binary=binary))

        return await asyncio.to_thread(text) if before or after else text()

    async def _read(
        self, layers: Sequence[str], path: str, entry: LayerEntry | None
    ) -> bytes | None:
        if entry is None or entry.type is not EntryType.REGULAR:
            return None
        content = await self._files.open(layers, path)
        return b"".join([chunk async for chunk in content.chunks])


@dataclass(frozen=True, slots=True)
class _Renames:
    """Renamed files: what was at the old paths by the new ones, and the old paths."""

    targets: Mapping[str, tuple[str, LayerEntry]] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()

    def told(self, change: ImageChange) -> ImageChange | None:
        """Return the change as it is told; None for the half of a rename that is not."""
        if change.kind is ChangeKind.REMOVED and change.path in self.sources:
            return None
        if change.kind is not ChangeKind.ADDED or change.path not in self.targets:
            return change
        from_path, before = self.targets[change.path]
        return replace(
            change,
            kind=ChangeKind.RENAMED,
            from_path=from_path,
            before=before,
            content_changed=False,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    renames: _Renames
    summary: DiffSummary


class _Moves:
    """Finds files that were removed and added with equal content, just one of each."""

    def __init__(self) -> None:
        self._count = 0
        self._found: dict[str, _Move] = {}

    def add(self, change: ImageChange) -> None:
        entry = change.after or change.before
        if (
            change.kind not in (ChangeKind.ADDED, ChangeKind.REMOVED)
            or entry is None
            or entry.type is not EntryType.REGULAR
            or not entry.size_bytes
            or self._count > RENAMED_MAX
        ):
            return
        self._count += 1
        self._found.setdefault(entry.sha256, _Move()).add(change)

    def renames(self) -> _Renames:
        if self._count > RENAMED_MAX:
            return _Renames()
        moves = [move for move in self._found.values() if move.is_one]
        return _Renames(
            {move.added[0]: (move.removed[0], move.entries[0]) for move in moves},
            frozenset(move.removed[0] for move in moves),
        )


class _Move:
    __slots__ = ("added", "entries", "removed")

    def __init__(self) -> None:
        self.added: list[str] = []
        self.removed: list[str] = []
        self.entries: list[LayerEntry] = []

    @property
    def is_one(self) -> bool:
        return len(self.added) == len(self.removed) == 1

    def add(self, change: ImageChange) -> None:
        if change.before is None:
            self.added.append(change.path)
        else:
            self.removed.append(change.path)
            self.entries.append(change.before)
