"""The squashfs writer beside squashfs-tools: sqfstar makes another of the same tar, and unsquashfs
reads both. What the kernel makes of ours: test_kernel_overlay."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.writer import IndexWriter
from contree.adapters.layers.squashfs import tables as squashfs_tables
from contree.adapters.layers.squashfs.format import BLOCK_BYTES
from contree.adapters.layers.squashfs.head import HEAD_BYTES, image_parts
from contree.adapters.layers.squashfs.variant import MountVariant
from contree.adapters.layers.squashfs.writer import build_squashfs
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.app.images.layer_store import FilePart
from contree.domain.errors import LayerRefused
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, root
from tests.support.squashfs import joined
from tests.unit.adapters.layers.strategies import trees

PLAIN = MountVariant(key="self", borrowed={}, idle=frozenset())
Image = tuple[FilePart, ...]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def image_of(store: LayerDirectory, work: Path, members: list[tars.Member]) -> Image:
    tar = tars.tar_bytes(members)
    blob = tars.blob(work, tar)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    return (await store.mount_plan([layer.diff_id])).squashfs[0]


def by_sqfstar(target: Path, members: list[tars.Member]) -> Path:
    subprocess.run(
        ["sqfstar", "-quiet", "-no-progress", str(target)],
        input=tars.tar_bytes(members),
        check=True,
        capture_output=True,
    )
    return target


def tree(image: Path, target: Path) -> dict[str, object]:
    """Everything that unsquashfs says and makes of an image, but for its root, the sizes of
    directories: how names are grouped is free."""
    listed = subprocess.run(["unsquashfs", "-lln", str(image)], check=True, capture_output=True)
    lines = listed.stdout.decode(errors="surrogateescape").splitlines()
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-no-progress", "-d", str(target), str(image)],
        check=True,
        capture_output=True,
    )
    found: dict[str, object] = {
        "": sorted(
            re.sub(r"^(d\S+ \S+) +\d+", r"\1", line) for line in lines if "squashfs-root/" in line
        )
    }
    for path in target.rglob("*"):
        told = path.lstat()
        kind = stat.S_IFMT(told.st_mode)
        names = os.listxattr(path) if kind in (stat.S_IFREG, stat.S_IFDIR) else []
        found[str(path.relative_to(target))] = (
            told.st_nlink,
            {name: os.getxattr(path, name) for name in names},
            path.read_bytes() if kind == stat.S_IFREG else b"",
        )
    return found


def comparable(members: list[tars.Member]) -> list[tars.Member]:
    """Name the directories that are only implied, since sqfstar and we make other ones of them; and
    leave out attributes of links and devices, which unsquashfs cannot give them and stumbles over.
    """
    named = {member.name for member in members}
    implied = {str(path) for name in named for path in Path(name).parents} - named - {"."}
    plain = [
        member if member.type in (tarfile.REGTYPE, tarfile.DIRTYPE) else replace(member, xattrs={})
        for member in members
    ]
    return [root(), *(directory(name) for name in sorted(implied)), *plain]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(members=trees())
async def test_random_trees_are_what_sqfstar_makes_of_them(members: list[tars.Member]) -> None:
    members = comparable(members)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = LayerDirectory(work / "layers")
        try:
            image = joined(await image_of(store, work, members), work / "ours")
        finally:
            store.close()
        theirs = by_sqfstar(work / "theirs", members)
        assert tree(image, work / "out-ours") == tree(theirs, work / "out-theirs")


async def test_large_directories_and_files_are_what_sqfstar_makes_of_them(
    store: LayerDirectory, tmp_path: Path
) -> None:
    sizes = [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES]
    members = [
        root(),
        directory("d"),
        *(file(f"d/{n:04}-{'n' * 120}", b"%d" % n, uid=n, gid=70_000 - n) for n in range(1500)),
        *(file(f"f{size}", os.urandom(size)) for size in sizes),
        *(file(f"v{n}", xattrs={"user.v": f"{n}" * 3000}) for n in range(7)),
    ]
    image = joined(await image_of(store, tmp_path, members), tmp_path / "ours")
    theirs = by_sqfstar(tmp_path / "theirs", members)
    assert tree(image, tmp_path / "out-ours") == tree(theirs, tmp_path / "out-theirs")


async def test_contents_stay_in_the_tar(store: LayerDirectory, tmp_path: Path) -> None:
    holes = [(BLOCK_BYTES, os.urandom(2 * BLOCK_BYTES)), (5 * BLOCK_BYTES, b"end")]
    members = [
        root(),
        file("plain", os.urandom(1_000_000)),
        tars.sparse("whole-blocks", holes, 5 * BLOCK_BYTES + 3),
    ]
    head, tar, rest = await image_of(store, tmp_path, members)
    assert (head.path, rest.path, tar.path.name) == (rest.path, head.path, "layer.tar")
    assert (head.size_bytes, rest.offset_bytes) == (HEAD_BYTES, HEAD_BYTES)
    assert rest.size_bytes <= 8192


async def test_a_sparse_file_in_tiny_pieces_is_refused(
    store: LayerDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of it would take a page of disk: 25 bytes of a tar, 4,096 of ours."""
    monkeypatch.setattr(bounds, "SPARSE_EXPANSION_FREE_BYTES", 1024**2)
    segments = [(n * BLOCK_BYTES, b"x") for n in range(2000)]
    tiny = tars.sparse("tiny", segments, 2000 * BLOCK_BYTES)
    with pytest.raises(LayerRefused, match="'tiny' is sparse in pieces so small"):
        await image_of(store, tmp_path, [root(), tiny])


async def test_more_owners_than_squashfs_has_room_for_are_refused(
    store: LayerDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squashfs_tables, "IDS_MAX", 10)
    assert await image_of(store, tmp_path, [root(), *(file(f"{n}", uid=n) for n in range(10))])
    with pytest.raises(LayerRefused, match="more than 10 users and groups"):
        await image_of(store, tmp_path, [root(), *(file(f"{n}", uid=n) for n in range(11))])


@contextmanager
def index_with(path: Path, entry: TarEntry, *, data_offset: int) -> Iterator[LayerIndex]:
    writer = IndexWriter(path)
    writer.put(entry, data_offset=data_offset, sha256=b"")
    writer.finish(size_bytes=data_offset)
    with closing(LayerIndex(path)) as index:
        yield index


def test_content_beyond_4_gib_is_found(tmp_path: Path) -> None:
    tar, mount, data_offset = tmp_path / "layer.tar", tmp_path / "mount", 5 << 30
    content = os.urandom(BLOCK_BYTES + 10)
    with tar.open("wb") as stream:
        stream.seek(data_offset)
        stream.write(content)
    size = len(content)
    entry = TarEntry(path=b"far", kind=Kind.REGULAR, size_bytes=size, stored_bytes=size)
    with index_with(tmp_path / "index", entry, data_offset=data_offset) as index:
        build_squashfs(index=index, tars=[tar], variant=PLAIN, target=mount)
    image = joined(image_parts(mount, lambda layer: [tar][layer]), tmp_path / "image")
    command = ["unsquashfs", "-cat", str(image), "far"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == content


@pytest.mark.parametrize("noted", [b"", b"hsqs" + bytes(5000), b"x" * 4096])
def test_a_file_of_another_kind_is_no_mountable_one(tmp_path: Path, noted: bytes) -> None:
    (tmp_path / "mount").write_bytes(noted)
    with pytest.raises(ValueError, match="remove it, it is made again"):
        image_parts(tmp_path / "mount", lambda layer: tmp_path / str(layer))
