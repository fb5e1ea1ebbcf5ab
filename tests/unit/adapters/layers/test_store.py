"""Built on the real store: what is on disk when things end well, badly, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contree.adapters.layers.index.reader import IndexCache
from contree.adapters.layers.index.writer import IndexWriter
from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.shared import SPACE, SharedLayers
from contree.adapters.layers.staging import staging_directory, sweep
from contree.adapters.layers.store import (
    INDEX_NAME,
    TAR_NAME,
    WRITE_THREADS,
    LayerDirectory,
)
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.app.outages import Outages
from contree.domain.errors import GuestFailure, LayerRefused, NotFoundError, StorageFullError
from tests.fakes.blob_store import FakeBlobStore
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, root


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    return tmp_path / "layers"


@pytest.fixture
async def store(layers: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(layers)
    yield real
    real.close()


async def imported(store: LayerDirectory, tmp_path: Path, *members: tars.Member) -> str:
    tar = tars.tar_bytes(members)
    blob = tars.blob(tmp_path, tar)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    return layer.diff_id


def kept(layers: Path) -> list[str]:
    """What is visible; staging must be empty."""
    staging = layers / ".staging"
    assert not staging.exists() or not list(staging.iterdir())
    return sorted(path.name for path in layers.iterdir() if path != staging)


async def test_a_layer_directory_holds_the_tar_as_it_came(
    store: LayerDirectory, tmp_path: Path, layers: Path
) -> None:
    layer = await imported(store, tmp_path, file("a", b"x"))
    (name,) = kept(layers)
    assert layer == "sha256:" + name
    assert tars.diff_id((layers / name / TAR_NAME).read_bytes()) == layer
    assert {path.name for path in (layers / name).iterdir()} == {TAR_NAME, INDEX_NAME}


async def test_two_images_share_the_layers_they_share(
    store: LayerDirectory, tmp_path: Path, layers: Path
) -> None:
    base = await imported(store, tmp_path, root(), file("base"))
    one = await imported(store, tmp_path, file("one"))
    two = await imported(store, tmp_path, file("two"))
    plans = [await store.mount_plan([base, upper]) for upper in (one, two)]
    assert plans[0].squashfs[0] == plans[1].squashfs[0]
    assert len(kept(layers)) == 3


async def test_refused_layers_leave_nothing(
    store: LayerDirectory, tmp_path: Path, layers: Path
) -> None:
    layers.mkdir()
    with pytest.raises(LayerRefused):
        await imported(store, tmp_path, file("ok", bytes(100_000)), file("../up"))
    stream = tars.stream_of(tars.guest_bytes([root(), file("b"), file("a")]))
    with pytest.raises(LayerRefused):
        await store.add_delta(stream, below=[], bytes_max=1 << 30)
    assert kept(layers) == []


async def test_a_lost_guest_leaves_nothing_even_after_the_last_byte(
    store: LayerDirectory, layers: Path
) -> None:
    data = tars.guest_bytes([root(), file("whole", b"x" * 5000)])

    async def late() -> AsyncIterator[bytes]:
        yield data
        raise GuestFailure("gone before it said that it was done")

    with pytest.raises(GuestFailure):
        await store.add_delta(late(), below=[], bytes_max=1 << 30)
    assert kept(layers) == []


async def test_a_refused_stream_is_not_read_to_its_end(store: LayerDirectory) -> None:
    taken = 0
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        try:
            yield tars.guest_bytes([root(), file("b"), file("a")])
            while True:
                taken += 1
                yield bytes(1 << 20)
        finally:
            closed.set()

    with pytest.raises(LayerRefused):
        await store.add_delta(endless(), below=[], bytes_max=1 << 50)
    assert closed.is_set()
    assert taken < 100


async def test_cancelling_leaves_nothing(store: LayerDirectory, layers: Path) -> None:
    reached = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield tars.guest_bytes([root(), file("a", bytes(4_000_000))])[:3_000_000]
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.add_delta(stuck(), below=[], bytes_max=1 << 30))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept(layers) == []


def test_a_sweep_removes_what_has_no_owner_and_nothing_else(tmp_path: Path) -> None:
    with staging_directory(tmp_path) as mine:
        left = tmp_path / ".staging" / "left"
        (left / "new").mkdir(parents=True)
        (left / "new" / TAR_NAME).write_bytes(b"half")
        assert sweep(tmp_path) == 1
        assert not left.exists()
        assert mine.exists()
    assert sweep(tmp_path) == 0
    assert sweep(tmp_path / "absent") == 0


def test_a_process_that_is_killed_leaves_only_what_a_sweep_removes(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from contree.adapters.layers.staging import staging_directory\n"
        "with staging_directory(Path(sys.argv[1])) as path:\n"
        "    (path / 'half').write_bytes(b'x'); print(path, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert sweep(tmp_path) == 0, "it lives"
        process.kill()
        process.wait()
    assert path.exists()
    assert sweep(tmp_path) == 1
    assert not path.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 3 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_is_said_and_nothing_is_kept(small_disk: Path, tmp_path: Path) -> None:
    store = LayerDirectory(small_disk)
    try:
        tar = tars.tar_bytes([root(), file("big", os.urandom(4_000_000))])
        blob = tars.blob(tmp_path, tar, tars.TAR_GZIP)
        with pytest.raises(StorageFullError):
            await store.add_imported(blob, diff_id=tars.diff_id(tar))
        stream = tars.stream_of(tars.guest_bytes([root(), file("big", os.urandom(4_000_000))]))
        with pytest.raises(StorageFullError):
            await store.add_delta(stream, below=[], bytes_max=1 << 30)
        many = tars.guest_bytes([root(), *[file(f"{n:05}" + "n" * 90) for n in range(4000)]])
        with pytest.raises(StorageFullError):
            await store.add_delta(tars.stream_of(many), below=[], bytes_max=1 << 30)
        assert kept(small_disk) == []
        # The tar fits, but not its squashfs beside it.
        layer = await imported(store, tmp_path, root(), file("half", os.urandom(1_700_000)))
        with (small_disk / ".filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(512)):
                pass
        with pytest.raises(StorageFullError):
            await store.mount_plan([layer])
        (small_disk / ".filler").unlink()
        assert len(kept(small_disk)) == 1
        assert len(list((small_disk / kept(small_disk)[0]).iterdir())) == 2
    finally:
        store.close()


async def test_a_layer_made_on_one_box_is_found_by_another(tmp_path: Path) -> None:
    shared = FakeBlobStore()
    one, two = (
        LayerDirectory(tmp_path / name, SharedLayers(shared, Outages())) for name in ("one", "two")
    )
    try:
        base = await imported(one, tmp_path, root(mode=0o711), directory("d"), file("d/a", b"1"))
        data = tars.guest_bytes([root(mode=0o711), directory("d"), file("d/b", b"2")])
        delta = await one.add_delta(tars.stream_of(data), below=[base], bytes_max=1 << 30)
        assert delta is not None
        assert len(shared.stored) == 2

        assert await two.has(delta.diff_id)
        assert len((await two.mount_plan([base, delta.diff_id])).squashfs) == 2
        files = LayerImageFiles(two)
        entries = await files.list([base, delta.diff_id], "/d")
        assert [entry.name for entry in entries] == ["a", "b"]
        files.close()
    finally:
        one.close()
        two.close()


async def test_a_layer_that_the_fleet_has_no_more_is_put_there_again(tmp_path: Path) -> None:
    """Removed because nobody had it, and made again on a box that still has it."""
    shared = FakeBlobStore()
    store = LayerDirectory(tmp_path / "layers", SharedLayers(shared, Outages()))
    try:
        members = [root(mode=0o711), file("a", b"1")]
        data = tars.guest_bytes(members)
        base = await imported(store, tmp_path, *members)
        delta = await store.add_delta(tars.stream_of(data), below=[], bytes_max=1 << 30)
        assert delta is not None
        assert len(before := set(shared.stored)) == 2
        shared.stored.clear()
        assert await imported(store, tmp_path, *members) == base
        await store.add_delta(tars.stream_of(data), below=[], bytes_max=1 << 30)
        assert set(shared.stored) == before
    finally:
        store.close()


async def test_what_cannot_be_put_where_the_fleet_finds_it_is_not_given_out(tmp_path: Path) -> None:
    shared = FakeBlobStore()
    shared.full = True
    store = LayerDirectory(tmp_path / "layers", SharedLayers(shared, Outages()))
    try:
        with pytest.raises(StorageFullError):
            await imported(store, tmp_path, root())
        data = tars.guest_bytes([root(), file("a", b"1")])
        with pytest.raises(StorageFullError):
            await store.add_delta(tars.stream_of(data), below=[], bytes_max=1 << 30)
    finally:
        store.close()


async def test_a_layer_that_went_from_this_box_is_fetched_again(tmp_path: Path) -> None:
    shared = FakeBlobStore()
    store = LayerDirectory(tmp_path / "layers", SharedLayers(shared, Outages()))
    try:
        base = await imported(store, tmp_path, root(mode=0o711), file("a", b"1"))
        plan = await store.mount_plan([base])
        shutil.rmtree(tmp_path / "layers" / base.removeprefix("sha256:"))
        assert await store.mount_plan([base]) == plan
        assert all(part.path.exists() for image in plan.squashfs for part in image)
    finally:
        store.close()


async def test_streams_that_do_not_come_hold_up_nobody_else(
    store: LayerDirectory, tmp_path: Path
) -> None:
    """As many as drip for as long as they like: other projects' runs and imports go on."""
    base = await imported(store, tmp_path, root(mode=0o711), file("base"))
    data = tars.guest_bytes([root(mode=0o711), file("late", b"x" * 5000)])
    go_on = asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield data[:1000]
        await go_on.wait()
        yield data[1000:]

    drips = [
        asyncio.create_task(store.add_delta(dripping(), below=[base], bytes_max=1 << 30))
        for _ in range(4 * WRITE_THREADS)
    ]
    staging = tmp_path / "layers" / ".staging"
    try:
        async with asyncio.timeout(60):
            while len(list(staging.iterdir())) < len(drips):  # noqa: ASYNC110 - threads tell nobody
                await asyncio.sleep(0.01)
            other = await imported(store, tmp_path, file("other"))
            assert len((await store.mount_plan([base, other])).squashfs) == 2
            quick = tars.guest_bytes([root(mode=0o711), file("quick")])
            assert await store.add_delta(tars.stream_of(quick), below=[base], bytes_max=1 << 30)
    finally:
        go_on.set()
    layers = await asyncio.gather(*drips)
    assert len(set(layers)) == 1


@pytest.mark.parametrize("where", ["here", "here and in the store", "only in the store"])
async def test_an_import_that_only_names_a_layer_is_refused(tmp_path: Path, where: str) -> None:
    shared = None if where == "here" else SharedLayers(FakeBlobStore(), Outages())
    layers = tmp_path / "layers"
    store = LayerDirectory(layers, shared)
    try:
        layer = await imported(store, tmp_path, file("secret", b"of another project"))
        local = layers / layer.removeprefix("sha256:")
        os.utime(local, (1, 1))
        if where == "only in the store":
            shutil.rmtree(local)
        bogus = tars.blob(tmp_path, tars.tar_bytes([]))
        with pytest.raises(LayerRefused, match=f"the layer's digest is .*, not {layer}"):
            await store.add_imported(bogus, diff_id=layer)
        if where == "only in the store":
            assert kept(layers) == []
        else:  # nor is it kept from removal any longer
            assert local.stat().st_mtime == 1
    finally:
        store.close()


async def test_an_import_of_what_is_there_writes_nothing_and_counts_as_added_now(
    store: LayerDirectory, tmp_path: Path, layers: Path
) -> None:
    layer = await imported(store, tmp_path, file("a", b"x"))
    local, staging = layers / layer.removeprefix("sha256:"), layers / ".staging"
    for path in (local, staging):
        os.utime(path, (1, 1))
    began = time.time() - 1  # the filesystem's clock may be a tick behind
    assert await imported(store, tmp_path, file("a", b"x")) == layer
    assert staging.stat().st_mtime == 1, "something was made there"
    assert local.stat().st_mtime >= began


async def test_content_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    shared = FakeBlobStore()
    digest = hashlib.sha256(b"the real layer").hexdigest()
    planted = tars.tar_bytes([root(), file("planted")])
    shared.stored[SPACE, digest] = (planted, datetime.now(UTC))
    store = LayerDirectory(tmp_path / "layers", SharedLayers(shared, Outages()))
    try:
        with pytest.raises(LayerRefused, match="digest"):
            await store.mount_plan(["sha256:" + digest])
        assert kept(tmp_path / "layers") == []
        with pytest.raises(NotFoundError):
            await store.mount_plan(["sha256:" + "1" * 64])
    finally:
        store.close()


@pytest.mark.parametrize(
    "members",
    [
        [file("f"), file("f/below")],
        [tars.symlink("l", "l"), file("l/passwd")],
        [tars.symlink("l", "m"), tars.symlink("m", "l/x"), file("l/passwd")],
        [tars.symlink("l", ".wh.x"), file("l/passwd")],
        [file("f"), tars.symlink("l", "f"), file("l/passwd")],
        [tars.symlink("l", "n" * 256), file("l/passwd")],
        [tars.hard_link("h", "absent")],
        [directory("d"), tars.hard_link("h", "d")],
        [file("d/.wh.x/y")],
        [file(".wh.")],
        [file("d/.wh...")],
        [file("f"), file("f/.wh..wh..opq")],
        [tars.Member(name="t", type=b"V")],
    ],
)
async def test_an_import_that_contradicts_itself_is_refused(
    store: LayerDirectory, tmp_path: Path, members: list[tars.Member]
) -> None:
    with pytest.raises(LayerRefused):
        await imported(store, tmp_path, *members)


async def test_aufs_leftovers_are_skipped(store: LayerDirectory, tmp_path: Path) -> None:
    names = [".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/99.1", ".wh..wh.orph/", "kept"]
    members = [directory(n) if n.endswith("/") else file(n) for n in names]
    layer = await imported(store, tmp_path, *members)
    files = LayerImageFiles(store)
    assert [entry.name for entry in await files.list([layer], "/")] == ["kept"]
    files.close()


def test_a_long_name_cannot_make_an_index_without_bound(tmp_path: Path) -> None:
    """Each name of 4,000 bytes implies 2,000 directories, with paths of 2,000 bytes on average."""
    index = IndexWriter(tmp_path / "index")

    def fill() -> None:
        for number in range(1000):
            path = b"%d/" % number + b"d/" * 1990 + b"x"
            index.put(TarEntry(path=path, kind=Kind.REGULAR), data_offset=0, sha256=b"")

    with pytest.raises(LayerRefused, match="LAYER_INDEX_BYTES_MAX"):
        fill()
    index.close()


def test_holes_count_against_the_logical_size(tmp_path: Path) -> None:
    index = IndexWriter(tmp_path / "index")
    huge = TarEntry(path=b"h", kind=Kind.REGULAR, size_bytes=bounds.LAYER_LOGICAL_BYTES_MAX)
    index.put(huge, data_offset=0, sha256=b"")
    one = TarEntry(path=b"i", kind=Kind.REGULAR, size_bytes=1)
    with pytest.raises(LayerRefused, match="LAYER_LOGICAL_BYTES_MAX"):
        index.put(one, data_offset=0, sha256=b"")
    index.close()


def test_the_index_cache_closes_the_oldest_that_is_not_in_use(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        IndexWriter(path).finish(size_bytes=0)
    cache = IndexCache(open_max=2)
    with cache.using(paths[:3]) as held:
        with cache.using(paths) as more:
            assert more[:3] == held
        assert [index.root().path for index in held] == [b""] * 3
    with cache.using(paths[1:3]) as again:
        assert again == held[1:]
    with pytest.raises(FileNotFoundError), cache.using([paths[0], tmp_path / "absent"]):
        pass
    cache.close()


@pytest.mark.parametrize("target", ["etc", "/etc", "../../etc", "./etc/", "sub/../etc", "m"])
async def test_an_import_is_written_through_a_link_of_its_own_layer(
    store: LayerDirectory, tmp_path: Path, target: str
) -> None:
    """As containerd unpacks it: inside the root, and missing directories are made."""
    members = [
        tars.symlink("m", "etc"),
        tars.symlink("l", target),
        file("l/passwd", b"new"),
        tars.hard_link("again", "l/passwd"),
        file("l/.wh.gone"),
    ]
    layer = await imported(store, tmp_path, *members)
    with store.index(layer) as index:
        rows = {row.path: row for row in index.rows()}
    assert rows[b"etc/passwd"].size_bytes == 3
    assert rows[b"again"].ino == rows[b"etc/passwd"].ino
    assert Kind(rows[b"etc/gone"].kind) is Kind.WHITEOUT
    assert Kind(rows[b"l"].kind) is Kind.SYMLINK
    assert b"l/passwd" not in rows


async def test_a_link_that_became_a_directory_leads_nowhere_any_more(
    store: LayerDirectory, tmp_path: Path
) -> None:
    members = [tars.symlink("l", "etc"), file("l/a"), directory("l"), file("l/b")]
    layer = await imported(store, tmp_path, *members)
    with store.index(layer) as index:
        assert {row.path for row in index.rows()} == {b"", b"etc", b"etc/a", b"l", b"l/b"}
