"""Built as one suite over the fake and the real store; tars come from Python's `tarfile`."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contree.adapters.layers.store import LayerDirectory
from contree.app.images.layer_store import LayerStore
from contree.domain.errors import GuestFailure, LayerRefused, NotFoundError
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link, opaque, root, symlink, whiteout

ABSENT = "sha256:" + "0" * 64
NO_LIMIT = 1 << 40
BASE = [
    root(mode=0o750, mtime=50),
    directory("etc", mtime=50),
    file("etc/motd", b"hello\n", mtime=50),
    file("etc/passwd", b"root:x:0:0\n", mtime=50),
    directory("srv", mtime=50),
    file("srv/a", b"a", mtime=50),
]


@pytest.fixture(params=["fake", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LayerStore]:
    if request.param == "fake":
        yield FakeLayers()
        return
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


@pytest.fixture
async def base(store: LayerStore, tmp_path: Path) -> str:
    return await imported(store, tmp_path, tars.tar_bytes(BASE))


async def imported(store: LayerStore, tmp_path: Path, tar: bytes, media: str = tars.TAR) -> str:
    blob = tars.blob(tmp_path, tar, media)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    return layer.diff_id


async def delta(store: LayerStore, below: list[str], *members: tars.Member) -> str | None:
    stream = tars.stream_of(tars.guest_bytes(members))
    layer = await store.add_delta(stream, below=below, bytes_max=NO_LIMIT)
    return None if layer is None else layer.diff_id


@pytest.mark.parametrize("media_type", [tars.TAR, tars.TAR_GZIP, tars.TAR_ZSTD, tars.DOCKER_GZIP])
async def test_an_import_keeps_its_identity(
    store: LayerStore, tmp_path: Path, media_type: str
) -> None:
    tar = tars.tar_bytes(BASE)
    blob = tars.blob(tmp_path, tar, media_type)

    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))

    assert layer.diff_id == tars.diff_id(tar)
    assert layer.size_bytes == len(tar)
    assert layer.entry_count == len(BASE)
    assert await store.has(layer.diff_id)
    assert blob.exists(), "the blob stays the caller's"
    again = await store.add_imported(blob, diff_id=layer.diff_id)
    assert again == layer


async def test_an_import_whose_digest_differs_is_refused_and_not_kept(
    store: LayerStore, tmp_path: Path
) -> None:
    blob = tars.blob(tmp_path, tars.tar_bytes(BASE))
    with pytest.raises(LayerRefused, match="digest"):
        await store.add_imported(blob, diff_id=ABSENT)
    assert not await store.has(ABSENT)


async def test_who_names_a_layer_that_is_there_must_have_its_bytes(
    store: LayerStore, base: str, tmp_path: Path
) -> None:
    """Another project's import; the digest is no secret."""
    bogus = tars.blob(tmp_path, tars.tar_bytes([]))
    with pytest.raises(LayerRefused, match="digest"):
        await store.add_imported(bogus, diff_id=base)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no gzip")
    with pytest.raises(LayerRefused):
        await store.add_imported(damaged, diff_id=base)
    assert await imported(store, tmp_path, tars.tar_bytes(BASE), tars.TAR_GZIP) == base


@pytest.mark.parametrize("media_type", [tars.TAR_GZIP, tars.TAR_ZSTD])
@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
async def test_a_damaged_import_is_refused(
    store: LayerStore, tmp_path: Path, media_type: str, damage: str
) -> None:
    tar = tars.tar_bytes(BASE)
    blob = tars.blob(tmp_path, tar, media_type)
    packed = bytearray(blob.read_bytes())
    if damage == "cut":
        del packed[len(packed) // 2 :]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(b"<html>not a layer</html>")
    blob.write_bytes(packed)
    with pytest.raises(LayerRefused):
        await store.add_imported(blob, diff_id=tars.diff_id(tar))
    assert not await store.has(tars.diff_id(tar))


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/..", ".."])
async def test_an_import_with_a_name_that_leaves_the_root_is_refused(
    store: LayerStore, tmp_path: Path, name: str
) -> None:
    tar = tars.tar_bytes([file(name, b"x")])
    with pytest.raises(LayerRefused):
        await imported(store, tmp_path, tar)
    assert not await store.has(tars.diff_id(tar))


async def test_an_import_over_its_bound_is_refused_and_not_kept(
    store: LayerStore, tmp_path: Path
) -> None:
    tar = tars.tar_bytes(BASE)
    blob, diff_id = tars.blob(tmp_path, tar, tars.TAR_GZIP), tars.diff_id(tar)
    with pytest.raises(LayerRefused):
        await store.add_imported(blob, diff_id=diff_id, bytes_max=len(tar) - 1)
    assert not await store.has(diff_id)
    layer = await store.add_imported(blob, diff_id=diff_id, bytes_max=len(tar))
    assert layer.size_bytes == len(tar)


async def test_many_import_the_same_layer_at_once(store: LayerStore, tmp_path: Path) -> None:
    tar = tars.tar_bytes(BASE)
    blob = tars.blob(tmp_path, tar, tars.TAR_GZIP)
    imports = [store.add_imported(blob, diff_id=tars.diff_id(tar)) for _ in range(6)]
    layers = await asyncio.gather(*imports)
    assert {layer.diff_id for layer in layers} == {tars.diff_id(tar)}


async def test_a_stack_that_lacks_a_layer_cannot_be_mounted(store: LayerStore, base: str) -> None:
    with pytest.raises(NotFoundError):
        await store.mount_plan([base, ABSENT])
    assert not await store.has(ABSENT)
    assert not await store.has("latest")


async def test_a_plan_has_one_image_for_each_layer(store: LayerStore, base: str) -> None:
    upper = await delta(store, [base], root(mode=0o750), file("new", b"1"))
    assert upper is not None
    plan = await store.mount_plan([base, upper])
    assert len(plan.squashfs) == 2
    assert plan == await store.mount_plan([base, upper])
    assert plan.squashfs[:1] == (await store.mount_plan([base])).squashfs


async def test_nothing_but_the_root_is_no_change(store: LayerStore, base: str) -> None:
    assert await delta(store, [base], root(mode=0o750, mtime=50)) is None


async def test_directories_with_another_time_are_no_change(store: LayerStore, base: str) -> None:
    members = [root(mode=0o750, mtime=90), directory("etc", mtime=91), directory("srv", mtime=92)]
    assert await delta(store, [base], *members) is None


async def test_a_file_rewritten_with_the_same_is_no_change(store: LayerStore, base: str) -> None:
    same = [
        root(mode=0o750, mtime=50),
        directory("etc", mtime=70),
        file("etc/motd", b"hello\n", mtime=50),
    ]
    assert await delta(store, [base], *same) is None


@pytest.mark.parametrize(
    "member",
    [
        file("etc/motd", b"hullo\n", mtime=50),
        file("etc/motd", b"hello\n", mtime=51),
        file("etc/motd", b"hello\n", mtime=50, mode=0o600),
        file("etc/motd", b"hello\n", mtime=50, uid=7),
        file("etc/motd", b"hello\n", mtime=50, xattrs={"user.a": "b"}),
        symlink("etc/motd", "hello", mtime=50),
        whiteout("etc/motd"),
        directory("etc/motd", mtime=50),
        file("etc/new", mtime=50),
        opaque("etc/empty", mtime=50),
    ],
)
async def test_anything_else_is_a_change(store: LayerStore, base: str, member: tars.Member) -> None:
    assert await delta(store, [base], root(mode=0o750), directory("etc", mtime=50), member)


async def test_the_mode_of_a_directory_is_a_change(store: LayerStore, base: str) -> None:
    assert await delta(store, [base], root(mode=0o750), directory("etc", mtime=50, mode=0o700))
    assert await delta(store, [base], root(mode=0o700))


async def test_equal_content_gives_an_equal_digest(store: LayerStore, base: str) -> None:
    members = [root(mode=0o750, mtime=50), directory("etc", mtime=60), file("etc/x", b"1" * 900)]
    first = await delta(store, [base], *members)
    stream = tars.stream_of(tars.guest_bytes(members), size=7)
    again = await store.add_delta(stream, below=[base], bytes_max=NO_LIMIT)
    assert again is not None
    assert again.diff_id == first
    assert await delta(store, [base], *members[:-1], file("etc/x", b"2" * 900)) != first


async def test_a_whiteout_of_nothing_is_no_change(store: LayerStore, base: str) -> None:
    assert await delta(store, [base], root(mode=0o750), whiteout("never-was")) is None


async def test_the_size_bound_counts_the_stream_and_is_inclusive(
    store: LayerStore, base: str
) -> None:
    data = tars.guest_bytes([root(), file("big", bytes(100_000))])
    with pytest.raises(LayerRefused, match=str(len(data) - 1)):
        await store.add_delta(tars.stream_of(data), below=[base], bytes_max=len(data) - 1)
    assert await store.add_delta(tars.stream_of(data), below=[base], bytes_max=len(data))


HOSTILE = {
    "a name that climbs": [root(), file("../up", b"x")],
    "an absolute name": [root(), file("/etc/shadow", b"x")],
    "a whiteout by name": [root(), file(".wh.etc", b"")],
    "a name twice": [root(), file("a", b"1"), file("a", b"2")],
    "no root": [file("a", b"1")],
    "a hard link to nothing": [root(), hard_link("a", "etc/passwd")],
    "a type of its own": [root(), tars.Member(name="x", type=b"Z")],
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_stream_is_refused(store: LayerStore, base: str, what: str) -> None:
    with pytest.raises(LayerRefused):
        await delta(store, [base], *HOSTILE[what])


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 1500])
async def test_a_stream_that_ends_early_is_refused(store: LayerStore, base: str, keep: int) -> None:
    data = tars.guest_bytes([root(), file("a", bytes(900)), file("b", b"1")])[:keep]
    with pytest.raises(LayerRefused):
        await store.add_delta(tars.stream_of(data), below=[base], bytes_max=NO_LIMIT)


@pytest.mark.parametrize("after", [0, 600, 10_000])
async def test_the_streams_own_error_comes_out(store: LayerStore, base: str, after: int) -> None:
    data = tars.guest_bytes([root(), file("a", bytes(5000))])

    async def breaking() -> AsyncIterator[bytes]:
        yield data[:after]
        raise GuestFailure("the guest is gone")

    with pytest.raises(GuestFailure):
        await store.add_delta(breaking(), below=[base], bytes_max=NO_LIMIT)


async def test_an_error_after_the_last_byte_keeps_nothing(store: LayerStore, base: str) -> None:
    data = tars.guest_bytes([root(mode=0o750, mtime=50), file("whole", b"x", mtime=7)])
    good = await store.add_delta(tars.stream_of(data), below=[base], bytes_max=NO_LIMIT)
    assert good is not None
    other = tars.guest_bytes([root(mode=0o750, mtime=50), file("whole", b"y", mtime=7)])

    async def late() -> AsyncIterator[bytes]:
        yield other
        raise GuestFailure("the guest never said that it was done")

    with pytest.raises(GuestFailure):
        await store.add_delta(late(), below=[base], bytes_max=NO_LIMIT)


async def test_a_cancelled_delta_can_be_taken_again(store: LayerStore, base: str) -> None:
    data = tars.guest_bytes([root(), file("a", bytes(5000))])
    reached = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield data[:2000]
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.add_delta(stuck(), below=[base], bytes_max=NO_LIMIT))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.add_delta(tars.stream_of(data), below=[base], bytes_max=NO_LIMIT)


async def test_gnu_and_ustar_layers_are_read(store: LayerStore, tmp_path: Path) -> None:
    long = "d/" * 60 + "x" * 90
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        tar = tars.tar_bytes([file(long, b"1", mtime=3), symlink("s", "y")], format=form)
        assert await store.has(await imported(store, tmp_path, tar))
