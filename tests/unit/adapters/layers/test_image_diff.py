"""Built as a comparison: what differs between random images is what differs between their trees."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from contree.adapters.layers.diff.comparer import StackComparer
from contree.adapters.layers.index import reader
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.image_comparison import ImageChange, ImageComparer
from contree.app.images.layer_store import ImageFiles
from tests.fakes.layer_trees import FakeFile, Tree, tree_changes
from tests.support import layer_tars as tars
from tests.unit.adapters.layers.strategies import PATHS, oci_layers
from tests.unit.adapters.layers.test_merged_layers import grown, imported
from tests.unit.adapters.layers.test_random_stacks import everything

RANDOM = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
Stack = list[list[tars.Member]]


async def changes(
    comparer: ImageComparer, before: list[str], after: list[str], paths: list[str], *, times: bool
) -> list[ImageChange]:
    found: list[ImageChange] = []
    async for some in comparer.changes(before, after, paths=paths, times=times):
        found += some
    return found


async def tree(files: ImageFiles, layers: list[str]) -> Tree:
    """The whole image, read file by file."""
    return {
        path: FakeFile(
            type=entry.type,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_s=entry.mtime_s,
            data=data,
            symlink_to=entry.symlink_to,
            device=entry.device,
            xattrs=entry.xattrs,
        )
        for path, (entry, data) in (await everything(files, layers)).items()
    }


async def compared(shared: Stack, left: Stack, right: Stack, path: str, *, times: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = LayerDirectory(Path(scratch) / "layers")
        comparer, files = StackComparer(store), LayerImageFiles(store)
        try:
            ids = [
                [await stored(store, Path(scratch), members) for members in stack]
                for stack in (shared, left, right)
            ]
            one, other = ids[0] + ids[1], ids[0] + ids[2]
            wanted = tree_changes(await tree(files, one), await tree(files, other), times=times)
            assert await changes(comparer, one, other, ["/"], times=times) == wanted
            below = [c for c in wanted if c.path == path or c.path.startswith(f"{path}/")]
            assert await changes(comparer, one, other, [path], times=times) == below
        finally:
            comparer.close()
            files.close()
            store.close()


async def stored(store: LayerDirectory, scratch: Path, members: list[tars.Member]) -> str:
    tar = tars.tar_bytes(members)
    diff_id = tars.diff_id(tar)
    await store.add_imported(tars.blob(scratch, tar), diff_id=diff_id)
    return diff_id


@RANDOM
@given(
    shared=st.lists(oci_layers(), max_size=2),
    left=st.lists(oci_layers(), max_size=2),
    right=st.lists(oci_layers(), max_size=2),
    path=PATHS.map("/{}".format),
    times=st.booleans(),
)
def test_random_images_differ_as_their_trees_do(
    shared: Stack, left: Stack, right: Stack, path: str, times: bool
) -> None:
    note(f"shared={shared!a} left={left!a} right={right!a} path={path!a}")
    asyncio.run(compared(shared, left, right, path, times=times))


async def test_the_cost_follows_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of a hundred files is not listed for the one that changed in it."""
    store = LayerDirectory(tmp_path / "layers")
    comparer = StackComparer(store)
    try:
        many = [tars.file(f"d{n % 10}/f{n}", b"x") for n in range(1000)]
        layers = (many, [tars.file("d1/f1", b"y"), tars.file("d2/.wh.f2")])
        ids = [await stored(store, tmp_path, members) for members in layers]
        read: list[reader.Row] = []
        rows = reader.LayerIndex.children

        def counted(index: reader.LayerIndex, directory: bytes) -> Iterator[reader.Row]:
            for row in rows(index, directory):
                read.append(row)
                yield row

        monkeypatch.setattr(reader.LayerIndex, "children", counted)
        found = await changes(comparer, ids[:1], ids, ["/"], times=False)
        assert [one.path for one in found] == ["/d1/f1", "/d2/f2"]
        assert sorted(row.name for row in read) == [b"d1", b"d2", b"f1", b"f2"]
    finally:
        comparer.close()
        store.close()


async def test_layers_that_are_merged_differ_in_the_same(tmp_path: Path) -> None:
    """Images of a line with merged layers, also where their common part ends within a span."""
    store = LayerDirectory(tmp_path / "layers")
    comparer, files = StackComparer(store), LayerImageFiles(store)
    try:
        whole = [await imported(store, tmp_path, tars.root(), tars.file("f0", b"base"))]
        for number in range(1, 24):
            members = [
                tars.file(f"f{number}", b"%d" % number, mtime=number),
                tars.whiteout(f"f{number - 3}"),
                *([tars.file(f"f{number - 1}", b"again")] if number % 4 == 0 else []),
            ]
            whole = await grown(store, whole, *sorted(members, key=lambda one: one.name))
        store.wait_for_merges()
        with store.stack([*whole]) as stack:
            assert len(stack._indexes) < len(whole), "some are merged"
        for at in (1, 5, 6, 9, 16, 17, 23):
            branch = await grown(store, whole[:at], tars.file("new", b"%d" % at))
            for pair in ((whole[:at], whole), (whole, branch), (branch, whole[: at + 1])):
                trees = [await tree(files, layers) for layers in pair]
                found = await changes(comparer, *pair, ["/"], times=True)
                assert found == tree_changes(*trees, times=True)
    finally:
        comparer.close()
        files.close()
        store.close()
