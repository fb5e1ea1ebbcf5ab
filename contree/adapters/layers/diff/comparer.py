"""Compares images by the indexes of their layers (app.images.image_comparison.ImageComparer)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

from contree.adapters.layers.diff.sparse import StoredFile, hold_the_same
from contree.adapters.layers.diff.walk import Pair, Scope, walk
from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import Row
from contree.adapters.layers.index.stack import Node
from contree.adapters.layers.reading.entry_types import layer_entry
from contree.adapters.layers.reading.open_tars import OpenTars
from contree.adapters.layers.reading.stepped import stepped
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.tar.entry import Kind
from contree.app.images.image_comparison import ChangeKind, ImageChange

_THREADS: Final = 2
_PAIRS_A_STEP: Final = 2048
"""After so many pairs the thread is free for others, whether they differ or not."""


class StackComparer:
    """Reads the layers of `store`."""

    def __init__(self, store: LayerDirectory) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="image-diff")

    def close(self) -> None:
        """Stop the threads; a running step is finished first. Blocking."""
        self._threads.shutdown()

    async def changes(
        self,
        before: Sequence[str],
        after: Sequence[str],
        *,
        paths: Sequence[str] = ("/",),
        times: bool = False,
        beyond: str | None = None,
    ) -> AsyncGenerator[Sequence[ImageChange], None]:
        await self._store.make_local([*before, *after])
        scope = Scope(
            paths=[_raw(path) for path in paths], beyond=None if beyond is None else _raw(beyond)
        )
        make = partial(self._found, tuple(before), tuple(after), scope, times=times)
        steps = stepped(self._threads, make, _gathered)
        try:
            async for step in steps:
                if step:
                    yield step
        finally:
            await steps.aclose()

    async def names(self, layers: Sequence[str], paths: Sequence[str]) -> bool:
        await self._store.make_local(layers)
        look = partial(self._names, tuple(layers), [_raw(path) for path in paths])
        return await asyncio.get_running_loop().run_in_executor(self._threads, look)

    def _names(self, layers: Sequence[str], paths: Sequence[bytes]) -> bool:
        for diff_id in layers:
            with self._store.index(diff_id) as index:
                if any(_is_named(index, path) for path in paths):
                    return True
        return False

    def _found(
        self, before: Sequence[str], after: Sequence[str], scope: Scope, *, times: bool
    ) -> Generator[ImageChange | None, None, None]:
        """Yield a change for each pair, None for one that does not differ."""
        with (
            self._store.stacks(before, after) as (one, other, shared),
            closing(OpenTars([self._store.tar_path(diff_id) for diff_id in before])) as ours,
            closing(OpenTars([self._store.tar_path(diff_id) for diff_id in after])) as theirs,
        ):
            for pair in walk(one, other, shared=shared, scope=scope):
                yield _change(pair, ours, theirs, times=times)


def _gathered(found: Iterator[ImageChange | None]) -> list[ImageChange] | None:
    step = list(islice(found, _PAIRS_A_STEP))
    return [change for change in step if change is not None] if step else None


def _is_named(index: LayerIndex, path: bytes) -> bool:
    """Whether the layer has the path, or hides what was above it."""
    parts = path.split(b"/")
    for count in range(1, len(parts)):
        row = index.at(b"/".join(parts[:count]))
        if row is None:
            return False
        if row.kind != Kind.DIRECTORY or row.opaque:
            return True
    return index.at(path) is not None


def _raw(path: str) -> bytes:
    return path.lstrip("/").encode("utf-8", "surrogateescape")


def _change(pair: Pair, ours: OpenTars, theirs: OpenTars, *, times: bool) -> ImageChange | None:
    before, after = pair.before, pair.after
    if before is None or after is None:
        if before is after:
            return None  # removed where there was nothing
        return _said(pair, ChangeKind.ADDED if before is None else ChangeKind.REMOVED)
    one, other = before.row, after.row
    if one.kind != other.kind:
        return _said(pair, ChangeKind.TYPE)
    if _content(one) != _content(other) and not _equal_with_holes(before, after, ours, theirs):
        return _said(pair, ChangeKind.MODIFIED)
    if _metadata(one) != _metadata(other) or (times and one.mtime_s != other.mtime_s):
        return _said(pair, ChangeKind.METADATA)
    return None


def _said(pair: Pair, kind: ChangeKind) -> ImageChange:
    sides = [
        None if node is None else replace(layer_entry(node.row), opaque=False)
        for node in (pair.before, pair.after)
    ]
    return ImageChange(
        path="/" + pair.path.decode("utf-8", "surrogateescape"),
        kind=kind,
        before=sides[0],
        after=sides[1],
        content_changed=kind is not ChangeKind.METADATA,
    )


def _content(row: Row) -> object:
    match row.kind:
        case Kind.REGULAR:
            return row.sha256
        case Kind.SYMLINK:
            return row.symlink
        case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
            return row.dev_major, row.dev_minor
        case _:
            return None


def _metadata(row: Row) -> object:
    return row.mode, row.uid, row.gid, row.xattrs


def _equal_with_holes(before: Node, after: Node, ours: OpenTars, theirs: OpenTars) -> bool:
    """Whether two files whose digests differ hold the same: holes count in digests."""
    one, other = before.row, after.row
    if one.kind != Kind.REGULAR or one.size_bytes != other.size_bytes:
        return False
    if one.segments is None and other.segments is None:
        return False
    return hold_the_same(
        StoredFile(ours.descriptor(before.layer), one.entry()),
        StoredFile(theirs.descriptor(after.layer), other.entry()),
    )
