"""The ImageComparer contract, on the fake and on the layers' indexes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contree.adapters.layers.diff.comparer import StackComparer
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.image_comparison import ChangeKind, ImageChange, ImageComparer
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType, LayerStore
from contree.domain.errors import NotFoundError
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.support.layer_tars import device, directory, file, symlink

ABSENT = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Layers:
    store: LayerStore
    comparer: ImageComparer

    async def made(self, *members: tars.Member) -> str:
        tar = tars.tar_bytes(members)
        with tempfile.TemporaryDirectory() as scratch:
            blob = tars.blob(Path(scratch), tar)
            layer = await self.store.add_imported(blob, diff_id=tars.diff_id(tar))
        return layer.diff_id

    async def changes(
        self, before: list[str], after: list[str], **how: object
    ) -> list[ImageChange]:
        found: list[ImageChange] = []
        async for some in self.comparer.changes(before, after, **how):  # type: ignore[arg-type] # the options
            found += some
        return found

    async def told(self, before: list[str], after: list[str], **how: object) -> list[str]:
        return [f"{one.kind} {one.path}" for one in await self.changes(before, after, **how)]


@pytest.fixture(params=["fake", "indexes"])
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layers]:
    if request.param == "fake":
        fake = FakeLayers()
        yield Layers(fake, fake)
        return
    real = LayerDirectory(tmp_path / "layers")
    comparer = StackComparer(real)
    yield Layers(real, comparer)
    comparer.close()
    real.close()


async def test_an_image_equals_itself(layers: Layers) -> None:
    one = await layers.made(file("srv/new", b"x", mtime=9))
    assert await layers.told([one], [one]) == []
    assert await layers.told([], []) == []


async def test_both_sides_of_a_change_are_told(layers: Layers) -> None:
    one = await layers.made(file("srv/f", b"x", mtime=9, mode=0o600))
    two = await layers.made(file("srv/f", b"yy", mtime=10, uid=7, xattrs={"user.k": "v"}))
    (change,) = await layers.changes([one], [one, two])
    assert change == ImageChange(
        path="/srv/f",
        kind=ChangeKind.MODIFIED,
        before=LayerEntry(
            type=EntryType.REGULAR,
            mode=0o600,
            mtime_s=9,
            size_bytes=1,
            sha256=hashlib.sha256(b"x").hexdigest(),
        ),
        after=LayerEntry(
            type=EntryType.REGULAR,
            mode=0o644,
            uid=7,
            mtime_s=10,
            size_bytes=2,
            sha256=hashlib.sha256(b"yy").hexdigest(),
            xattrs={"user.k": b"v"},
        ),
        content_changed=True,
    )


async def test_equal_bytes_of_another_time_are_no_change_unless_asked_for(layers: Layers) -> None:
    one = await layers.made(file("f", b"same", mtime=9), directory("d", mtime=9))
    two = await layers.made(file("f", b"same", mtime=10), directory("d", mtime=10))
    assert await layers.told([one], [one, two]) == []
    assert await layers.told([one], [one, two], times=True) == ["metadata /d", "metadata /f"]


async def test_equal_size_and_time_do_not_hide_a_change(layers: Layers) -> None:
    one = await layers.made(file("f", b"abc", mtime=9))
    two = await layers.made(file("f", b"abd", mtime=9))
    assert await layers.told([one], [two]) == ["modified /f"]


async def test_paths_are_sorted_by_bytes(layers: Layers) -> None:
    names = ["a/x", "a.b", "a-/y", "a", "a!", "caf\udce9", "\ue000", "\U00010000"]
    members = [file(name, b"1") for name in names if name != "a"]
    one = await layers.made(*members, directory("a"))
    found = [one.path for one in await layers.changes([], [one])]
    raw = [path.encode("utf-8", "surrogateescape") for path in found]
    assert raw == sorted(raw)
    assert set(found) == {f"/{name}" for name in names} | {"/a-"}


async def test_a_removed_directory_shows_all_that_went(layers: Layers) -> None:
    one = await layers.made(directory("d"), file("d/x", b"1"), file("d/e/y", b"2"), file("z"))
    two = await layers.made(file(".wh.d"))
    assert await layers.told([one], [one, two]) == [
        "removed /d",
        "removed /d/e",
        "removed /d/e/y",
        "removed /d/x",
    ]


async def test_an_opaque_directory_shows_what_really_went_and_came(layers: Layers) -> None:
    one = await layers.made(directory("d"), file("d/kept", b"1"), file("d/gone", b"2"))
    two = await layers.made(
        directory("d"), file("d/.wh..wh..opq"), file("d/kept", b"1"), file("d/new", b"3")
    )
    assert await layers.told([one], [one, two]) == ["removed /d/gone", "added /d/new"]
    assert await layers.told([one, two], [one]) == ["added /d/gone", "removed /d/new"]


async def test_a_file_in_place_of_a_directory_is_another_type(layers: Layers) -> None:
    one = await layers.made(directory("d"), file("d/x", b"1"))
    two = await layers.made(file("d", b"2"))
    assert await layers.told([one], [one, two]) == ["type /d", "removed /d/x"]
    assert await layers.told([one, two], [one]) == ["type /d", "added /d/x"]


async def test_links_and_devices_have_contents_too(layers: Layers) -> None:
    one = await layers.made(symlink("l", "a"), device("dev", 1, 3))
    two = await layers.made(symlink("l", "b"), device("dev", 1, 5))
    assert await layers.told([one], [one, two]) == ["modified /dev", "modified /l"]


async def test_mode_owner_and_attributes_are_metadata(layers: Layers) -> None:
    one = await layers.made(file("m"), file("o"), file("x"), directory("d"))
    two = await layers.made(
        file("m", mode=0o600),
        file("o", gid=4),
        file("x", xattrs={"user.a": "1"}),
        directory("d", mode=0o700),
    )
    found = await layers.changes([one], [one, two])
    assert [(one.path, one.kind) for one in found] == [
        ("/d", ChangeKind.METADATA),
        ("/m", ChangeKind.METADATA),
        ("/o", ChangeKind.METADATA),
        ("/x", ChangeKind.METADATA),
    ]
    assert not any(one.content_changed for one in found)


async def test_what_was_put_back_is_no_change(layers: Layers) -> None:
    one = await layers.made(file("f", b"1"), file("d/x", b"2"))
    gone = await layers.made(file(".wh.f"), file(".wh.d"))
    back = await layers.made(file("f", b"1"), file("d/x", b"2"))
    assert await layers.told([one], [one, gone, back]) == []


async def test_paths_narrow_and_pages_go_on(layers: Layers) -> None:
    one = await layers.made(
        file("a/x/1"), file("a/x/2"), file("a/y"), file("ab"), file("b/z"), file("a.")
    )
    assert await layers.told([], [one], paths=["/a/x", "/b"]) == [
        "added /a/x",
        "added /a/x/1",
        "added /a/x/2",
        "added /b",
        "added /b/z",
    ]
    whole = await layers.changes([], [one])
    for at, change in enumerate(whole):
        assert await layers.changes([], [one], beyond=change.path) == whole[at + 1 :]


async def test_a_file_with_holes_is_compared_by_what_it_holds(layers: Layers) -> None:
    if isinstance(layers.comparer, FakeLayers):
        pytest.skip("the fake takes no tar of a sparse file")
    page = b"d" * 4096
    data = bytes(4096) + page + bytes(4096)
    holes = await layers.made(tars.sparse("f", [(4096, page)], len(data)))
    full = await layers.made(file("f", data))
    other = await layers.made(tars.sparse("f", [(4096, b"e" * 4096)], len(data)))
    split = await layers.made(tars.sparse("f", [(4096, page[:512]), (4608, page[512:])], len(data)))
    assert await layers.told([holes], [full]) == []
    assert await layers.told([full], [split]) == []
    assert await layers.told([holes], [split]) == []
    assert await layers.told([holes], [other]) == ["modified /f"]
    assert await layers.told([full], [other]) == ["modified /f"]


async def test_layers_that_may_change_a_path_are_told(layers: Layers) -> None:
    names = layers.comparer.names
    one = await layers.made(file("a/x/1"), file("b/.wh.gone"), symlink("l", "a"))
    opaque = await layers.made(directory("d"), file("d/.wh..wh..opq"))
    for path in ("/", "/a", "/a/x", "/a/x/1", "/b/gone", "/b/gone/below", "/l", "/l/x"):
        assert await names([one], [path]), path
    for path in ("/a/y", "/a/x/2", "/b/other", "/aa", "/d"):
        assert not await names([one], [path]), path
    assert await names([opaque], ["/d/anything"])
    assert await names([opaque, one], ["/none", "/a"])
    assert not await names([], ["/"])


async def test_a_layer_that_is_not_there_is_not_found(layers: Layers) -> None:
    with pytest.raises(NotFoundError):
        await layers.changes([], [ABSENT])
