"""The LayerComparer contract, on the fake and on the layers' indexes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contree.adapters.layers.reading.comparison import IndexComparer
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.layer_comparison import LayerComparer, LayerComparison, LayerEntry
from contree.app.images.layer_store import EntryType, LayerStore
from contree.domain.errors import NotFoundError
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.support.layer_tars import file, symlink

ABSENT = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Layers:
    store: LayerStore
    comparer: LayerComparer

    async def made(self, *members: tars.Member) -> str:
        tar = tars.tar_bytes(members)
        with tempfile.TemporaryDirectory() as scratch:
            blob = tars.blob(Path(scratch), tar)
            diff_id = tars.diff_id(tar)
            layer = await self.store.add_imported(blob, diff_id=diff_id)
        return layer.diff_id


@pytest.fixture(params=["fake", "indexes"])
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layers]:
    if request.param == "fake":
        fake = FakeLayers()
        yield Layers(fake, fake)
        return
    real = LayerDirectory(tmp_path / "layers")
    yield Layers(real, IndexComparer(real))
    real.close()


def paths_of(found: LayerComparison) -> list[str]:
    return [one.path for one in found.differences]


async def test_a_layer_equals_itself(layers: Layers) -> None:
    one = await layers.made(file("srv/new", b"x", mtime=9), symlink("srv/l", "new", mtime=9))
    found = await layers.comparer.compare(one, one, limit=10)
    assert found == LayerComparison(equal_count=2, differences=[], truncated=False)


async def test_both_sides_of_a_difference_are_told(layers: Layers) -> None:
    same = file("srv/same", b"s", mtime=9)
    one = await layers.made(same, file("srv/new", b"x", mtime=9, mode=0o600))
    other = await layers.made(same, file("srv/new", b"yy", mtime=10, uid=7))
    found = await layers.comparer.compare(one, other, limit=10)
    assert (found.equal_count, found.truncated) == (1, False)
    (difference,) = found.differences
    assert difference.path == "/srv/new"
    assert difference.original == LayerEntry(
        type=EntryType.REGULAR,
        mode=0o600,
        mtime_s=9,
        size_bytes=1,
        sha256=hashlib.sha256(b"x").hexdigest(),
    )
    assert difference.replay is not None
    assert (difference.replay.uid, difference.replay.size_bytes) == (7, 2)


async def test_what_only_one_side_has_is_told(layers: Layers) -> None:
    one = await layers.made(file("a", b"1", mtime=9), file("srv/c", b"3", mtime=9))
    other = await layers.made(file("b", b"2", mtime=9), file("srv/c", b"3", mtime=9))
    found = await layers.comparer.compare(one, other, limit=10)
    assert paths_of(found) == ["/a", "/b"]
    assert [d.original is None for d in found.differences] == [False, True]
    assert [d.replay is None for d in found.differences] == [True, False]


async def test_a_removal_is_a_word_of_its_own(layers: Layers) -> None:
    one = await layers.made(file("srv/.wh.old"))
    other = await layers.made(file("srv/old", b"new", mtime=9))
    found = await layers.comparer.compare(one, other, limit=10)
    (difference,) = found.differences
    assert difference.original == LayerEntry(type=None)


async def test_nothing_changed_is_a_side_too(layers: Layers) -> None:
    one = await layers.made(file("new", b"x", mtime=9))
    assert paths_of(await layers.comparer.compare(None, one, limit=10)) == ["/new"]
    assert paths_of(await layers.comparer.compare(one, None, limit=10)) == ["/new"]
    assert not (await layers.comparer.compare(None, None, limit=10)).differences


async def test_differences_are_bounded_and_it_says_so(layers: Layers) -> None:
    one = await layers.made(*(file(f"f{i}", b"x", mtime=9) for i in range(5)))
    found = await layers.comparer.compare(one, None, limit=3)
    assert paths_of(found) == ["/f0", "/f1", "/f2"]
    assert found.truncated
    assert not (await layers.comparer.compare(one, None, limit=5)).truncated


async def test_a_layer_that_is_not_there_is_not_found(layers: Layers) -> None:
    with pytest.raises(NotFoundError):
        await layers.comparer.compare(None, ABSENT, limit=3)
