"""Files of a run on their way into its guest: order, archives, bounds, and whom an error names."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from contree.app import place_files
from contree.app.guest.microvm import FileKind, GuestFile
from contree.app.reads import OperationRow
from contree.domain.errors import InvalidFieldError
from contree.domain.instance import FilePlacement
from contree.domain.operation import InstanceRequested, Status
from tests.fakes.microvm import FakeFile, FakeProcess
from tests.support.registry import link, tar_of
from tests.unit.app.world import World, a_caller

LARGE = bytes(place_files.AHEAD_BYTES_MAX + 1)
PLACED: list[GuestFile] = []
FILES: dict[str, FakeFile] = {}


async def _look(process: FakeProcess) -> int:
    PLACED[:] = process.guest.placed
    FILES.clear()
    FILES.update(process.guest.files)
    return 0


async def uploaded(world: World, content: bytes) -> UUID:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return (await world.uploads.upload(a_caller(), chunks())).file_id


async def ran(files: dict[str, tuple[bytes, FilePlacement]], **order: object) -> OperationRow:
    """Run with `files`, whose contents are uploaded first."""
    world = World({"look": _look})
    placements = {
        path: FilePlacement(
            file_id=await uploaded(world, content),
            uid=one.uid,
            gid=one.gid,
            mode=one.mode,
            unpack=one.unpack,
        )
        for path, (content, one) in files.items()
    }
    async with world.working():
        base = await world.imported()
        row = await world.ran(base, "look", files=placements, **order)
    requested = [e for e in world.log.events if isinstance(e, InstanceRequested)]
    assert [one["unpack"] for one in requested[-1].spec["files"].values()] == [
        one.unpack for one in placements.values()
    ]
    return row


def plain(**fields: object) -> FilePlacement:
    return FilePlacement(**{"file_id": UUID(int=0), **fields})


async def test_many_files_come_in_order_whatever_their_size() -> None:
    contents = {
        f"/d/{n}": (b"" if n % 7 == 0 else LARGE if n % 5 == 0 else b"%d" % n) for n in range(100)
    }
    row = await ran({path: (content, plain(mode=0o600)) for path, content in contents.items()})
    assert row.status is Status.SUCCESS
    assert [file.path.decode() for file in PLACED] == list(contents)
    assert {path: file.content for path, file in FILES.items()} == contents
    assert {file.mode for file in PLACED} == {0o600}


async def test_an_archive_goes_below_its_path_and_its_directories_again_at_the_end() -> None:
    archive = tar_of(
        [
            link("a", "", tarfile.DIRTYPE),
            link("a/b", "", tarfile.DIRTYPE),
            ("a/b/f", b"content"),
            ("g", b""),
        ]
    )
    row = await ran(
        {
            "/src": (archive, plain(unpack=True)),
            "/src/own": (b"beside", plain()),
            "/": (tar_of([("top", b"x")]), plain(unpack=True, uid=8, gid=9)),
        }
    )
    assert (row.status, row.error) == (Status.SUCCESS, None)
    assert [(file.path, file.kind) for file in PLACED] == [
        (b"/src/a", FileKind.DIRECTORY),
        (b"/src/a/b", FileKind.DIRECTORY),
        (b"/src/a/b/f", FileKind.FILE),
        (b"/src/g", FileKind.FILE),
        (b"/src/a/b", FileKind.DIRECTORY),
        (b"/src/a", FileKind.DIRECTORY),
        (b"/src/own", FileKind.FILE),
        (b"/top", FileKind.FILE),
    ]
    assert FILES["/src/a/b/f"].content == b"content"
    assert FILES["/src/own"].content == b"beside"
    assert (FILES["/top"].uid, FILES["/top"].gid) == (8, 9)
    assert [file.name for file in PLACED[2:3]] == ["file /src: 'a/b/f' of the archive"]


async def test_what_cannot_be_unpacked_fails_by_its_path() -> None:
    row = await ran({"/src": (b"no archive", plain(unpack=True))})
    assert (row.status, row.outcome) == (Status.FAILED, None)
    assert row.error == "file /src: cannot be unpacked: it is no archive"


async def test_all_archives_of_a_run_together_have_the_bound_of_its_layer() -> None:
    archive = tar_of([("f", bytes(5000))])
    fits = {"/a": (archive, plain(unpack=True))}
    assert (await ran(fits, max_layer_bytes=9000, disposable=True)).status is Status.SUCCESS
    row = await ran(
        fits | {"/b": (archive, plain(unpack=True))}, max_layer_bytes=9000, disposable=True
    )
    assert row.error == "file /b: cannot be unpacked: it unpacks to more than 4000 bytes"


async def test_an_archive_is_a_directory_to_the_paths_of_a_request() -> None:
    with pytest.raises(InvalidFieldError) as refused:
        await ran({"/src": (b"", plain()), "/src/a": (b"", plain())})
    assert refused.value.field == "files['/src/a']"
    assert "/proc" in str(await _refused_field("/proc/x"))


async def _refused_field(path: str) -> str:
    with pytest.raises(InvalidFieldError) as refused:
        await ran({path: (b"", plain(unpack=True))})
    return refused.value.field
