"""Built on this machine's kernel: plans mounted as guests do, compared with ImageFiles.

The images are the test's own. Skipped where mounting is not allowed; tests/vm has real guests.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.squashfs import writer as squashfs
from contree.adapters.layers.squashfs.format import BLOCK_BYTES
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.writing.delta_view import squashfs_mtime
from contree.app.images.layer_store import EntryType, FileEntry, MountPlan
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, root
from tests.support.squashfs import files as files_of
from tests.support.squashfs import joined
from tests.unit.adapters.layers.strategies import guest_streams, oci_layers

KINDS = {
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFREG: EntryType.REGULAR,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFIFO: EntryType.FIFO,
}

PADDED_BYTES = 60 * 1024


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextmanager
def mounted(plan: MountPlan, work: Path) -> Iterator[Path]:
    """The layers with an empty upper directory on top, as docs/guest-protocol.md section 7 says."""
    made: list[Path] = []
    try:
        lower = []
        for number, image in enumerate(plan.squashfs):
            point = work / f"l{number}"
            point.mkdir()
            # A copy: the same layer twice must be two filesystems, as two partitions are.
            file = joined(image, work / f"s{number}")
            mount("-t", "squashfs", "-o", "loop,ro", str(file), str(point))
            made.append(point)
            lower.insert(0, str(point))
        for name in ("skeleton", "scratch", "merged"):
            (work / name).mkdir()
        # overlayfs wants its upper on a filesystem of its own here: the test's may be an overlay.
        mount("-t", "tmpfs", "tmpfs", str(work / "scratch"))
        made.append(work / "scratch")
        for name in ("upper", "work"):
            (work / "scratch" / name).mkdir()
        _copy_root(Path(lower[0]), work / "scratch" / "upper")
        options = f"lowerdir={':'.join([str(work / 'skeleton'), *lower])}"
        options += f",upperdir={work}/scratch/upper,workdir={work}/scratch/work"
        options += ",redirect_dir=nofollow,metacopy=off,index=off,xino=off"
        mount("-t", "overlay", "-o", options, "overlay", str(work / "merged"))
        made.append(work / "merged")
        yield work / "merged"
    finally:
        for point in reversed(made):
            subprocess.run(["umount", "-l", str(point)], check=True)


def _copy_root(source: Path, target: Path) -> None:
    """What the agent does: the upper's root takes after the top layer's."""
    told = source.stat()
    os.chown(target, told.st_uid, told.st_gid)
    target.chmod(stat.S_IMODE(told.st_mode))
    os.utime(target, (told.st_mtime, told.st_mtime))


def seen(merged: Path) -> dict[str, object]:
    """Every file as the kernel shows it."""
    found: dict[str, object] = {}
    pending = [Path("/")]
    while pending:
        path = pending.pop()
        real = merged / path.relative_to("/")
        told = real.lstat()
        kind = KINDS[stat.S_IFMT(told.st_mode)]
        if kind is EntryType.DIRECTORY:
            pending += [path / name.name for name in real.iterdir()]
        found[str(path)] = (
            kind,
            stat.S_IMODE(told.st_mode),
            (told.st_uid, told.st_gid, int(told.st_mtime)),
            real.read_bytes() if kind is EntryType.REGULAR else b"",
            str(real.readlink()) if kind is EntryType.SYMLINK else "",
            (os.major(told.st_rdev), os.minor(told.st_rdev)),
            _attributes(real) if _has_xattrs(path, kind) else {},
        )
    return found


def _attributes(real: Path) -> dict[str, bytes]:
    try:
        names = os.listxattr(real)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a squashfs in which nothing has any
            raise
        return {}
    return {name: os.getxattr(real, name) for name in names}


def _has_xattrs(path: Path, kind: EntryType) -> bool:
    """Squashfs cannot take the root's; the kernel gives user.* of files and directories only."""
    return str(path) != "/" and kind in (EntryType.REGULAR, EntryType.DIRECTORY)


async def told(files: LayerImageFiles, layers: list[str]) -> dict[str, object]:
    """The same, as ImageFiles tells it."""
    found = {}
    pending = [await files.stat(layers, "/")]
    while pending:
        entry = pending.pop()
        if entry.type is EntryType.DIRECTORY:
            pending += await files.list(layers, entry.path)
        found[entry.path] = await _told(files, layers, entry)
    return found


async def _told(files: LayerImageFiles, layers: list[str], entry: FileEntry) -> object:
    data = b""
    if entry.type is EntryType.REGULAR:
        data = await tars.collected((await files.open(layers, entry.path)).chunks)
    return (
        entry.type,
        entry.mode,
        (entry.uid, entry.gid, squashfs_mtime(entry.mtime_s)),
        data,
        entry.symlink_to,
        entry.device,
        entry.xattrs if _has_xattrs(Path(entry.path), entry.type) else {},
    )


async def compared(lower: list[list[tars.Member]], upper: list[tars.Member]) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = LayerDirectory(work / "layers")
        files = LayerImageFiles(store)
        try:
            layers = []
            for members in lower:
                tar = tars.tar_bytes(members)
                blob = tars.blob(work, tar)
                layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
                layers.append(layer.diff_id)
            stream = tars.stream_of(tars.guest_bytes(upper))
            delta = await store.add_delta(stream, below=layers, bytes_max=1 << 30)
            layers += [delta.diff_id] if delta is not None else []
            with mounted(await store.mount_plan(layers), work) as merged:
                assert seen(merged) == await told(files, layers)
        finally:
            files.close()
            store.close()


async def compared_with_merged(layered: list[list[tars.Member]]) -> None:
    """The kernel shows the same by a plan of merged layers as by a plan of each."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = LayerDirectory(work / "layers")
        files = LayerImageFiles(store)
        try:
            layers = []
            for members in layered:
                # Of one size, so that they are merged.
                tar = tars.tar_bytes(members).ljust(PADDED_BYTES, b"\0")
                blob = tars.blob(work, tar)
                layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
                layers.append(layer.diff_id)
            long = await store.mount_plan(layers)
            wanted = await told(files, layers)
            for point in ("one", "other"):
                (work / point).mkdir()
            with mounted(long, work / "one") as unmerged:
                assert seen(unmerged) == wanted
            stream = tars.stream_of(tars.guest_bytes([root(), file("on-top")]))
            await store.add_delta(stream, below=layers, bytes_max=1 << 30)
            store.wait_for_merges()
            short = await store.mount_plan(layers)
            assert any(".merged" in path.parts for path in files_of(short))
            with mounted(short, work / "other") as merged:
                assert seen(merged) == wanted
            assert await told(files, layers) == wanted
        finally:
            files.close()
            store.close()


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Try a squashfs on a loop device, which containers often do not have."""
    work = tmp_path_factory.mktemp("mount")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    (work / "m").mkdir()
    empty = bytes(1024)
    subprocess.run(
        ["sqfstar", "-quiet", "-no-progress", str(work / "s")],
        input=empty,
        check=True,
        capture_output=True,
    )
    command = ["mount", "-t", "squashfs", "-o", "loop,ro", str(work / "s"), str(work / "m")]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this kernel or container lets us mount no squashfs")
    subprocess.run(["umount", str(work / "m")], check=True)


@pytest.mark.usefixtures("may_mount")
def test_the_kernel_shows_implied_directories_and_hidden_marks_as_we_tell_them() -> None:
    base = [
        root(mode=0o711, uid=3, gid=70_000, mtime=77),
        directory("etc", mode=0o700, uid=8, mtime=9, xattrs={"user.e": "1"}),
        file("etc/a", b"1"),
        directory("gone"),
        file("gone/x"),
        directory("d"),
        file("d/below"),
    ]
    middle = [file("etc/b", b"2"), file(".wh.gone"), file("d/.wh..wh..opq"), file("d/above")]
    upper = [root(mode=0o711, uid=3, gid=70_000, mtime=77), file("new", b"n", mtime=-4)]
    asyncio.run(compared([base, middle], upper))


@pytest.mark.usefixtures("may_mount")
def test_a_directory_implied_in_an_opaque_one_borrows_nothing_from_what_that_hides() -> None:
    base = [root(), directory("d"), directory("d/in", mode=0o700, uid=9), file("d/in/old")]
    upper = [directory("d"), file("d/.wh..wh..opq"), file("d/in/new")]
    asyncio.run(compared([base, upper], [root(), file("new")]))


@pytest.mark.usefixtures("may_mount")
def test_the_kernel_finds_every_name_of_a_large_directory_and_every_block_of_files() -> None:
    sizes = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES]
    base = [
        root(),
        directory("d"),
        *(file(f"d/{n:04}-{'n' * 120}", b"%d" % n, uid=n % 300) for n in range(1200)),
        *(file(f"f{size}", os.urandom(size)) for size in sizes),
        tars.sparse("in-place", [(BLOCK_BYTES, b"y" * BLOCK_BYTES)], 4 * BLOCK_BYTES),
        tars.sparse("copied", [(9, b"a"), (3 * BLOCK_BYTES - 1, b"bc")], 5 * BLOCK_BYTES + 1),
        tars.sparse("nothing", [], BLOCK_BYTES + 1),
    ]
    upper = [root(), directory("d"), file("d/0700-over"), file("large", os.urandom(2_000_000))]
    asyncio.run(compared([base], upper))


@pytest.mark.usefixtures("may_mount")
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # shrinking would mount for minutes
)
@given(lower=st.lists(oci_layers(), min_size=1, max_size=3), upper=guest_streams())
def test_the_kernel_shows_random_stacks_as_we_tell_them(
    lower: list[list[tars.Member]], upper: list[tars.Member]
) -> None:
    note(f"lower={lower!a}")
    note(f"upper={upper!a}")
    asyncio.run(compared(lower, upper))


@pytest.mark.usefixtures("may_mount")
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(
    base=st.none() | oci_layers(),
    layered=st.lists(oci_layers(), min_size=4, max_size=5, unique_by=repr),
    in_place=st.integers(0, 5),
)
def test_the_kernel_shows_merged_layers_as_it_shows_the_layers(
    base: list[tars.Member] | None, layered: list[list[tars.Member]], in_place: int
) -> None:
    note(f"base={base!a}")
    note(f"layered={layered!a}")
    note(f"in_place={in_place}")
    # A large one is not merged with the rest: then the merged layers lie on something.
    large = [] if base is None else [[*base, file("large", bytes(200_000))]]
    with (
        patch.object(squashfs, "IN_PLACE_MIN_BYTES", 1),
        patch.object(squashfs, "IN_PLACE_MAX", in_place),
    ):
        asyncio.run(compared_with_merged([*large, *layered]))
