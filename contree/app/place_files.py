"""The files of a run, from the content store into its guest, before the command starts.

Small files are read ahead, several at once, and all go to the guest as one stream: a thousand cost
little more than one. An archive is taken apart here, so the guest needs no program for it. While
the database or the store is away it waits (Outages).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

from contree.app.content.archives import ArchiveEntry, Archives
from contree.app.content.project_content import ProjectContent
from contree.app.guest.microvm import FileKind, Guest, GuestFile
from contree.app.outages import Outages
from contree.app.reads import FileReads, FileRow
from contree.domain.errors import LayerRefused, NotFoundError, OperationFailure
from contree.domain.instance import FilePlacement, InstanceSpec

AHEAD_FILES: Final = 32
AHEAD_BYTES_MAX: Final = 64 * 1024
"""A larger file is read when its turn comes; so what is read ahead has a bound."""

_Placed = tuple[str, FilePlacement, FileRow]


class PlaceFiles:
    """Puts what a run asks for in place. Raises OperationFailure, NotFoundError, GuestFailure."""

    def __init__(
        self,
        *,
        files: FileReads,
        content: ProjectContent,
        archives: Archives,
        outages: Outages,
    ) -> None:
        self._files = files
        self._content = content
        self._archives = archives
        self._outages = outages

    async def place(self, guest: Guest, project_id: UUID, spec: InstanceSpec) -> None:
        if not spec.files:
            return
        wanted = {placement.file_id for placement in spec.files.values()}
        rows = await self._outages.waited_out(
            f"files of project {project_id}",
            partial(self._files.many, project_id, tuple(wanted)),
        )
        if missing := wanted - rows.keys():
            raise NotFoundError("file", min(missing))
        placed = [(path, one, rows[one.file_id]) for path, one in spec.files.items()]
        async with aclosing(self._items(project_id, placed, spec.max_layer_bytes)) as items:
            await guest.put_files(items)

    async def _items(
        self, project_id: UUID, placed: list[_Placed], bytes_max: int
    ) -> AsyncGenerator[GuestFile | bytes, None]:
        unpacked_bytes = 0
        async with aclosing(self._read_ahead(project_id, placed)) as ahead:
            async for (path, placement, row), data in ahead:
                name = f"file {path}"
                if placement.unpack:
                    left = bytes_max - unpacked_bytes
                    async with aclosing(
                        self._unpacked(project_id, path, placement, row, bytes_max=left)
                    ) as entries:
                        async for item in entries:
                            if isinstance(item, bytes):
                                unpacked_bytes += len(item)
                            yield item
                    continue
                yield GuestFile(
                    path=path.encode("utf-8", "surrogateescape"),
                    name=name,
                    uid=placement.uid,
                    gid=placement.gid,
                    mode=placement.mode,
                    size_bytes=row.size_bytes,
                )
                if data is not None:
                    if data:
                        yield data
                    continue
                async with aclosing(self._read(project_id, row.sha256)) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _read_ahead(
        self, project_id: UUID, placed: list[_Placed]
    ) -> AsyncGenerator[tuple[_Placed, bytes | None], None]:
        """Yield each with its content, None when that is large or to be unpacked."""
        waiting: deque[tuple[_Placed, asyncio.Task[bytes] | None]] = deque()
        left: Iterator[_Placed] = iter(placed)
        try:
            while True:
                while len(waiting) < AHEAD_FILES and (one := next(left, None)) is not None:
                    _, placement, row = one
                    reading = None
                    if not placement.unpack and row.size_bytes <= AHEAD_BYTES_MAX:
                        reading = asyncio.create_task(self._read_bytes(project_id, row.sha256))
                    waiting.append((one, reading))
                if not waiting:
                    return
                one, reading = waiting.popleft()
                try:
                    data = None if reading is None else await reading
                finally:
                    if reading is not None:
                        reading.cancel()
                yield one, data
        finally:
            begun = [reading for _, reading in waiting if reading is not None]
            for reading in begun:
                reading.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _unpacked(
        self, project_id: UUID, path: str, placement: FilePlacement, row: FileRow, *, bytes_max: int
    ) -> AsyncGenerator[GuestFile | bytes, None]:
        """Yield what is in an archive; its directories once more at the end, for their times."""
        name = f"file {path}"
        top = path.encode("utf-8", "surrogateescape")
        directories: list[GuestFile] = []
        try:
            async with (
                aclosing(self._read(project_id, row.sha256)) as content,
                aclosing(self._archives.entries(content, bytes_max=bytes_max)) as entries,
            ):
                async for entry in entries:
                    if isinstance(entry, bytes):
                        yield entry
                        continue
                    file = _at(top, name, placement, entry)
                    if file.path == b"/":
                        continue  # the root is the image's
                    if file.kind is FileKind.DIRECTORY:
                        directories.append(file)
                    yield file
        except LayerRefused as error:
            raise OperationFailure(f"{name}: cannot be unpacked: {error}") from error
        for directory in reversed(directories):
            yield directory

    def _read(self, project_id: UUID, sha256: str) -> AsyncGenerator[bytes, None]:
        return self._outages.read(
            f"content {sha256}", partial(self._content.read, project_id, sha256)
        )

    async def _read_bytes(self, project_id: UUID, sha256: str) -> bytes:
        return await self._outages.waited_out(
            f"content {sha256}", partial(self._content.read_bytes, project_id, sha256)
        )


def _at(top: bytes, name: str, placement: FilePlacement, entry: ArchiveEntry) -> GuestFile:
    """Return what `entry` is below `top`. An owner that was asked for owns all."""
    shown = entry.path.decode("utf-8", "backslashreplace")
    file = GuestFile(
        path=_joined(top, entry.path),
        name=f"{name}: '{shown}' of the archive",
        kind=entry.kind,
        uid=placement.uid or entry.uid or 0,
        gid=placement.gid or entry.gid or 0,
        mode=entry.mode,
        size_bytes=entry.size_bytes,
        mtime_s=entry.mtime_s,
        target=entry.target,
    )
    if entry.kind is FileKind.HARD_LINK:
        return replace(file, target=_joined(top, entry.target))
    return file


def _joined(top: bytes, path: bytes) -> bytes:
    return top.rstrip(b"/") + b"/" + path if path else top
