"""Built as a comparison: merged indexes, however arranged, show what the layers' own ones show."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from contree.adapters.layers.index.merging import complete, merge_indexes
from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.squashfs.variant import mount_variant
from contree.adapters.layers.tar.entry import Kind
from contree.adapters.layers.writing.imported import index_layer
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link, root
from tests.unit.adapters.layers.strategies import oci_layers


def made(work: Path, layers: list[list[tars.Member]], opened: ExitStack) -> list[LayerIndex]:
    found = []
    for number, members in enumerate(layers):
        tar = work / f"{number}.tar"
        tar.write_bytes(tars.tar_bytes(members))
        index_layer(tar, work / f"{number}.sqlite")
        found.append(opened.enter_context(closing(LayerIndex(work / f"{number}.sqlite"))))
    return found


class Arrangement:
    """Indexes and their starts; `merge` puts one in the place of several."""

    def __init__(self, work: Path, indexes: list[LayerIndex], opened: ExitStack) -> None:
        self.work, self.opened = work, opened
        self.indexes, self.starts = list(indexes), list(range(len(indexes)))

    def merge(self, first: int, end: int) -> None:
        path = self.work / f"merged-{len(list(self.work.iterdir()))}.sqlite"
        merge_indexes(self.indexes[first:end], self.starts[first:end], path, pulse=lambda: None)
        with closing(LayerIndex(path)) as index:
            idle = mount_variant(index, Stack(self.indexes[:first], self.starts[:first])).idle
        complete(path, sorted(idle))
        self.indexes[first:end] = [self.opened.enter_context(closing(LayerIndex(path)))]
        del self.starts[first + 1 : end]

    def shown(self) -> list[object]:
        stack = Stack(self.indexes, self.starts)
        return [_told(stack, node) for node in _walk(stack, stack.root())]


def _walk(stack: Stack, node: Node) -> Iterator[Node]:
    yield node
    if node.is_directory:
        for child in stack.children(node):
            assert stack.find(child.path) == child
            yield from _walk(stack, child)


def _told(stack: Stack, node: Node) -> object:
    row = node.row
    # How a directory is said, and where, may differ; what it shows may not.
    said = row._replace(ino=0, implied=0, opaque=0)
    is_file = row.kind != Kind.DIRECTORY
    whose = (node.layer, row.ino & 0xFFFF_FFFF) if is_file else None
    return node.path, said, whose, stack.links_shown(node)


@st.composite
def arrangements(draw: st.DrawFn) -> tuple[list[list[tars.Member]], list[tuple[int, int]]]:
    layers = draw(st.lists(oci_layers(), min_size=2, max_size=6))
    left, merges = len(layers), []
    for _ in range(draw(st.integers(1, 3))):
        if left < 2:
            break
        first = draw(st.integers(0, left - 2))
        end = draw(st.integers(first + 2, left))
        merges.append((first, end))
        left -= end - first - 1
    return layers, merges


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=arrangements())
def test_merged_layers_show_what_the_layers_show(
    case: tuple[list[list[tars.Member]], list[tuple[int, int]]],
) -> None:
    layers, merges = case
    note(f"layers={layers!a}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        arranged = Arrangement(Path(name), made(Path(name), layers, opened), opened)
        wanted = arranged.shown()
        for first, end in merges:
            arranged.merge(first, end)
            assert arranged.shown() == wanted


def arranged(work: Path, opened: ExitStack, *layers: list[tars.Member]) -> Arrangement:
    return Arrangement(work, made(work, list(layers), opened), opened)


def test_whiteouts_stay_only_where_they_hide_something_below(tmp_path: Path) -> None:
    with ExitStack() as opened:
        stack = arranged(
            tmp_path,
            opened,
            [file("base")],
            [file("came")],
            [file(".wh.came"), file(".wh.base"), file(".wh.never")],
        )
        stack.merge(1, 3)
        assert stack.indexes[1].whiteouts() == [b"base"]
        assert stack.indexes[1].entry_count == 2  # with the root


def test_a_directory_made_anew_hides_what_is_below_the_merged_layers(tmp_path: Path) -> None:
    with ExitStack() as opened:
        stack = arranged(
            tmp_path,
            opened,
            [directory("d", mode=0o700), file("d/old")],
            [file(".wh.d")],
            [file("d/new")],
        )
        wanted = stack.shown()
        stack.merge(1, 3)
        row = stack.indexes[1].at(b"d")
        assert row is not None
        assert (row.opaque, row.implied) == (1, 0)
        assert stack.shown() == wanted


def test_an_implied_directory_borrows_from_below_the_merged_layers(tmp_path: Path) -> None:
    with ExitStack() as opened:
        base = [root(mode=0o711), directory("d", mode=0o700, uid=9), file("d/old")]
        stack = arranged(tmp_path, opened, base, [file("d/a")], [file("d/b")])
        stack.merge(1, 3)
        assert set(stack.indexes[1].implied_directories()) == {b"", b"d"}
        shown = Stack(stack.indexes, stack.starts).find(b"d")
        assert shown is not None
        assert (shown.row.mode, shown.row.uid) == (0o700, 9)


def test_names_of_one_file_stay_so_and_equal_numbers_of_two_layers_stay_apart(
    tmp_path: Path,
) -> None:
    with ExitStack() as opened:
        stack = arranged(
            tmp_path,
            opened,
            [file("a", b"1"), hard_link("b", "a"), hard_link("c", "a")],
            [file("x", b"2"), hard_link("y", "x"), file("c", b"3")],
        )
        stack.merge(0, 2)
        (index,) = stack.indexes
        numbers = {name: index.at(name) for name in (b"a", b"b", b"c", b"x", b"y")}
        found = {name: row.ino for name, row in numbers.items() if row is not None}
        assert found[b"a"] == found[b"b"]
        assert found[b"x"] == found[b"y"]
        assert len({found[b"a"], found[b"x"], found[b"c"]}) == 3


def test_a_merge_can_be_given_up(tmp_path: Path) -> None:
    def stop() -> None:
        raise asyncio.CancelledError

    with ExitStack() as opened:
        indexes = made(tmp_path, [[file("a")], [file("b")]], opened)
        with pytest.raises(asyncio.CancelledError):
            merge_indexes(indexes, [0, 1], tmp_path / "given-up", pulse=stop)
