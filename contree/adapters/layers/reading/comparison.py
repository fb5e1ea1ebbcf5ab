"""Compares layers by their indexes (app.images.layer_comparison.LayerComparer), in one pass."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import groupby

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import ROOT_PARENT, Row
from contree.adapters.layers.reading.entry_types import layer_entry
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.tar.entry import join_path
from contree.app.images.layer_comparison import EntryDifference, LayerComparison, LayerEntry


class IndexComparer:
    """Reads the layers of `store`."""

    def __init__(self, store: LayerDirectory) -> None:
        self._store = store

    async def compare(
        self, original: str | None, replay: str | None, *, limit: int
    ) -> LayerComparison:
        await self._store.make_local([d for d in (original, replay) if d is not None])
        return await asyncio.to_thread(partial(self._compare, original, replay, limit))

    def _compare(self, original: str | None, replay: str | None, limit: int) -> LayerComparison:
        with ExitStack() as held:
            ours = held.enter_context(self._store.index(original)) if original else None
            theirs = held.enter_context(self._store.index(replay)) if replay else None
            equal_count = 0
            differences: list[EntryDifference] = []
            for difference in _paired(ours, theirs):
                if difference.original == difference.replay:
                    equal_count += 1
                elif len(differences) < limit:
                    differences.append(difference)
                else:
                    return LayerComparison(
                        equal_count=equal_count, differences=differences, truncated=True
                    )
        return LayerComparison(equal_count=equal_count, differences=differences, truncated=False)


def _paired(original: LayerIndex | None, replay: LayerIndex | None) -> Iterator[EntryDifference]:
    """Yield every path of either, with what each says of it; both indexes are in one order."""
    sides = [_said(index, side) for side, index in enumerate((original, replay)) if index]
    for (parent, name), rows in groupby(heapq.merge(*sides, key=_place), key=_place):
        said: list[LayerEntry | None] = [None, None]
        for row, side in rows:
            said[side] = layer_entry(row)
        path = b"/" if parent == ROOT_PARENT else b"/" + join_path(parent, name)
        shown = path.decode("utf-8", "surrogateescape")
        yield EntryDifference(path=shown, original=said[0], replay=said[1])


def _said(index: LayerIndex, side: int) -> Iterator[tuple[Row, int]]:
    """Yield what a layer says; directories that it only implies are said by those below."""
    return ((row, side) for row in index.rows() if not row.implied)


def _place(found: tuple[Row, int]) -> tuple[bytes, bytes]:
    return found[0].parent, found[0].name
