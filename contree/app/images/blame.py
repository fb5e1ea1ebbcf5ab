"""Which run wrote each line of a file, and which one last changed each entry of a directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

from contree.app.images.ancestry import LineImage
from contree.app.images.git_patch import TEXT_BYTES_MAX, is_text
from contree.app.images.image_comparison import ImageChange, ImageComparer
from contree.app.images.image_log import ImageHistory, Step
from contree.app.images.layer_store import EntryType, FileEntry, ImageFiles
from contree.app.reads import ImageReads
from contree.domain.errors import WrongFileTypeError
from contree.domain.line_edits import Edit, line_edits, lines_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BlamedLines:
    """Lines of one file that stand together and that one run wrote; `line` is the first, from 1."""

    line: int
    texts: Sequence[bytes]
    image: LineImage


@dataclass(frozen=True, slots=True, kw_only=True)
class BlamedChild:
    """An entry of a directory; `image` is the newest in which it, or anything below it, changed."""

    path: str
    image: LineImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Blamed:
    """What is at `path`, which has no symbolic link in it: a directory's children, or lines."""

    path: str
    is_directory: bool
    lines: Sequence[BlamedLines] = ()
    children: Sequence[BlamedChild] = ()


class Blame:
    """Walks down from an image until every line or entry has its run, at the latest the import."""

    def __init__(
        self,
        *,
        history: ImageHistory,
        images: ImageReads,
        comparer: ImageComparer,
        files: ImageFiles,
    ) -> None:
        self._history = history
        self._images = images
        self._comparer = comparer
        self._files = files

    async def of(self, project_id: UUID, image_id: UUID, path: str) -> Blamed:
        """Blame what `path` leads to in the image.

        Raises NotFoundError, WrongFileTypeError for what is neither a directory nor a text file of
        at most TEXT_BYTES_MAX.
        """
        layers = await self._images.stack(project_id, image_id)
        entry = await self._files.stat(layers, path)
        if entry.type is EntryType.DIRECTORY:
            children = await self._children(project_id, image_id, layers, entry.path)
            return Blamed(path=entry.path, is_directory=True, children=children)
        text = await self._text(layers, entry)
        if text is None:
            raise WrongFileTypeError(
                path, f"is neither a directory nor a text file of at most {TEXT_BYTES_MAX} bytes"
            )
        lines = lines_of(text)
        writers = await self._writers(project_id, image_id, entry.path, lines)
        return Blamed(path=entry.path, is_directory=False, lines=_folded(lines, writers))

    async def _children(
        self, project_id: UUID, image_id: UUID, layers: Sequence[str], directory: str
    ) -> Sequence[BlamedChild]:
        start = directory.rstrip("/") + "/"
        wanted = [entry.path for entry in await self._files.list(layers, directory)]
        left, found = set(wanted), dict[str, LineImage]()
        async with aclosing(self._steps(project_id, image_id)) as steps:
            async for step in steps:
                async with aclosing(self._changes(step, directory)) as changes:
                    async for change in changes:
                        child = start + change.path[len(start) :].split("/", 1)[0]
                        if child in left:
                            left.discard(child)
                            found[child] = step.image
                        if not left:
                            return [BlamedChild(path=p, image=found[p]) for p in wanted]
                if step.image.parent_image_id is None:
                    found |= dict.fromkeys(left, step.image)
        return [BlamedChild(path=path, image=found[path]) for path in wanted]

    async def _writers(
        self, project_id: UUID, image_id: UUID, path: str, lines: Sequence[bytes]
    ) -> Sequence[LineImage]:
        """Return the image that each line came with, a renamed file under its older names too."""
        file = _Traced(lines)
        async with aclosing(self._steps(project_id, image_id)) as steps:
            async for step in steps:
                if step.image.parent_image_id is None:
                    file.came_with(step.image, ())
                    break
                changes = [c async for c in self._changes(step, path) if c.path == path]
                if not changes or not changes[0].content_changed:
                    continue
                older = await self._history.older(project_id, step, [path], changes)
                if older:
                    path = older[path].from_path or path
                    continue
                before = await self._lines_before(step, changes[0])
                await asyncio.to_thread(file.came_with, step.image, before)
                if file.is_done:
                    break
        return file.writers

    def _steps(self, project_id: UUID, image_id: UUID) -> AsyncGenerator[Step, None]:
        return self._history.steps(project_id, image_id, (), follow=False)

    async def _changes(self, step: Step, path: str) -> AsyncGenerator[ImageChange, None]:
        """Yield what a run changed at the path and below; nothing for an import."""
        if step.image.parent_image_id is None:
            return
        if not await self._comparer.names(step.image.layers, (path,)):
            return
        async with aclosing(
            self._comparer.changes(step.below, step.stack, paths=(path,))
        ) as changes:
            async for some in changes:
                for change in some:
                    yield change

    async def _lines_before(self, step: Step, change: ImageChange) -> Sequence[bytes]:
        """Return the file's lines in the parent; none when there was no text there."""
        if change.before is None or change.before.type is not EntryType.REGULAR:
            return ()
        entry = await self._files.stat(step.below, change.path, follow=False)
        return lines_of(await self._text(step.below, entry) or b"")

    async def _text(self, layers: Sequence[str], entry: FileEntry) -> bytes | None:
        if entry.type is not EntryType.REGULAR or entry.size_bytes > TEXT_BYTES_MAX:
            return None
        content = await self._files.open(layers, entry.path)
        text = b"".join([chunk async for chunk in content.chunks])
        return text if is_text(text) else None


class _Traced:
    """A file's lines, followed back from image to image."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._count = len(lines)
        self._current = lines
        self._origins = list(range(len(lines)))  # of each current line, which it is; -1: none
        self._found: dict[int, LineImage] = {}

    @property
    def is_done(self) -> bool:
        return len(self._found) == self._count

    @property
    def writers(self) -> Sequence[LineImage]:
        return [self._found[number] for number in range(self._count)]

    def came_with(self, image: LineImage, before: Sequence[bytes]) -> None:
        """Go back to the parent of `image`, where the file was `before`."""
        origins = [-1] * len(before)
        before_at = after_at = 0
        for edit in (*line_edits(before, self._current), _end(before, self._current)):
            same = edit.before_start - before_at
            origins[before_at : edit.before_start] = self._origins[after_at : after_at + same]
            for number in self._origins[edit.after_start : edit.after_end]:
                if number >= 0:
                    self._found[number] = image
            before_at, after_at = edit.before_end, edit.after_end
        self._current, self._origins = before, origins


def _end(before: Sequence[bytes], after: Sequence[bytes]) -> Edit:
    return Edit(len(before), len(before), len(after), len(after))


def _folded(lines: Sequence[bytes], writers: Sequence[LineImage]) -> Sequence[BlamedLines]:
    found: list[BlamedLines] = []
    start = 0
    for number in range(1, len(lines) + 1):
        if number == len(lines) or writers[number].image_id != writers[start].image_id:
            texts = lines[start:number]
            found.append(BlamedLines(line=start + 1, texts=texts, image=writers[start]))
            start = number
    return found
