"""Built as one suite over the fake and the real one: a small image of three layers, read whole."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from contree.app.images.layer_store import EntryType, ImageFiles, LayerStore
from contree.domain.errors import NotFoundError, WrongFileTypeError
from tests.fakes.layers import FakeLayers
from tests.support import layer_tars as tars
from tests.support.layer_tars import (
    collected,
    device,
    directory,
    file,
    hard_link,
    opaque,
    root,
    symlink,
    whiteout,
)

ACCESS_ACL = "system.posix_acl_access"
GIVEN_TO_LISA = "user::rw-,user:lisa:rw-,group::---,mask::rw-,other::---"
LOWER = [
    root(mode=0o751, uid=1, mtime=1),
    directory("bin"),
    file("bin/tool", b"#!tool", mode=0o4755, uid=1000, gid=100, mtime=-5),
    hard_link("bin/alias", "bin/tool"),
    device("console", 5, 1, mode=0o600),
    tars.Member(name="pipe", type=tarfile.FIFOTYPE, mode=0o600),
    directory("etc", mode=0o700, gid=9, mtime=77),
    file("etc/group", b"root:x:0:\nstaff:x:100:u\n"),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\nuser:x:1000:100::/:/bin/sh\nagain:x:1000:1::/:\n"),
    directory("gone"),
    file("gone/file", b"x"),
    directory("merged"),
    file("merged/lower", b"lower"),
    file("merged/replaced", b"old"),
    directory("swapped"),
    file("swapped/inside", b"x"),
    file("turned", b"was a file"),
    directory("veiled", mode=0o711),
    file("veiled/below", b"x"),
]
MIDDLE = [
    # No entry for `etc`, nor for the root: both keep what LOWER says of them.
    file("etc/motd", b"hi"),
    file("merged/replaced", b"new"),
    file("merged/upper", b"upper"),
    tars.file("merged/.wh.lower"),
    tars.file(".wh.gone"),
    tars.file("veiled/.wh..wh..opq"),
    file("veiled/above", b"y"),
]
UPPER = [
    root(mode=0o751, uid=1, mtime=1),
    directory("links"),
    symlink("links/absolute", "/etc/motd"),
    symlink("links/climbing", "../../../../etc/motd"),
    symlink("links/dangling", "nowhere"),
    symlink("links/etc", "/etc"),
    symlink("links/loop", "loop"),
    symlink("links/relative", "../merged/upper"),
    file("swapped", b"is a file now"),
    opaque("turned"),
    file("turned/inside", b"z", xattrs={"user.note": "caf\udce9"}),
    whiteout("veiled/above"),
]
UPPER[-1:] = [directory("veiled", mode=0o711), UPPER[-1]]
UPPER.append(file("w\udcff\n", b"odd name", uid=70_000, gid=3_000_000_000))


@dataclass
class Image:
    store: LayerStore
    files: ImageFiles
    layers: Sequence[str]


@pytest.fixture(params=["fake", "real"])
async def image(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Image]:
    if request.param == "fake":
        fake = FakeLayers()
        yield Image(fake, fake, await _stored(fake, tmp_path))
        return
    store = LayerDirectory(tmp_path / "layers")
    files = LayerImageFiles(store)
    yield Image(store, files, await _stored(store, tmp_path))
    files.close()
    store.close()


async def _stored(store: LayerStore, tmp_path: Path) -> list[str]:
    ids = []
    for members in (LOWER, MIDDLE):
        tar = tars.tar_bytes(members)
        blob = tars.blob(tmp_path, tar)
        layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
        ids.append(layer.diff_id)
    upper = tars.stream_of(tars.guest_bytes(UPPER))
    delta = await store.add_delta(upper, below=ids, bytes_max=1 << 30)
    assert delta is not None
    return [*ids, delta.diff_id]


async def names(image: Image, path: str) -> list[str]:
    return [entry.name for entry in await image.files.list(image.layers, path)]


async def content(image: Image, path: str) -> bytes:
    return await collected((await image.files.open(image.layers, path)).chunks)


async def test_the_root_shows_the_merged_names_in_byte_order(image: Image) -> None:
    assert await names(image, "/") == [
        "bin",
        "console",
        "etc",
        "links",
        "merged",
        "pipe",
        "swapped",
        "turned",
        "veiled",
        "w\udcff\n",
    ]


async def test_whiteouts_and_opaque_directories_hide_what_is_below(image: Image) -> None:
    assert await names(image, "/merged") == ["replaced", "upper"]
    assert await names(image, "/veiled") == []
    assert await content(image, "/merged/replaced") == b"new"
    for path in ("/gone", "/gone/file", "/merged/lower", "/veiled/below", "/veiled/above"):
        with pytest.raises(NotFoundError):
            await image.files.stat(image.layers, path)


async def test_a_lower_stack_is_another_image(image: Image) -> None:
    lower = Image(image.store, image.files, image.layers[:1])
    assert await names(lower, "/gone") == ["file"]
    assert await content(lower, "/merged/replaced") == b"old"
    assert await names(Image(image.store, image.files, image.layers[:2]), "/veiled") == ["above"]


async def test_a_file_may_become_a_directory_and_a_directory_a_file(image: Image) -> None:
    assert await content(image, "/swapped") == b"is a file now"
    assert await names(image, "/turned") == ["inside"]
    with pytest.raises(NotFoundError):
        await image.files.stat(image.layers, "/swapped/inside")


async def test_directories_a_layer_only_implies_keep_their_metadata(image: Image) -> None:
    etc = await image.files.stat(image.layers, "/etc")
    assert (etc.mode, etc.gid, etc.mtime_s) == (0o700, 9, 77)
    top = await image.files.stat(image.layers[:2], "/")
    assert (top.mode, top.uid, top.path, top.name) == (0o751, 1, "/", "/")


async def test_an_entry_tells_all_of_a_file(image: Image) -> None:
    tool = await image.files.stat(image.layers, "/bin/tool")
    assert (tool.path, tool.name, tool.type) == ("/bin/tool", "tool", EntryType.REGULAR)
    assert (tool.mode, tool.size_bytes, tool.mtime_s) == (0o4755, 6, -5)
    assert (tool.uid, tool.owner, tool.gid, tool.group) == (1000, "user", 100, "staff")
    console = await image.files.stat(image.layers, "/console")
    assert (console.type, console.device) == (EntryType.CHARACTER_DEVICE, (5, 1))
    assert (await image.files.stat(image.layers, "/pipe")).type is EntryType.FIFO
    odd = await image.files.stat(image.layers, "/w\udcff\n")
    assert (odd.uid, odd.owner, odd.gid, odd.group) == (70_000, "70000", 3 * 10**9, "3000000000")
    inside = await image.files.stat(image.layers, "/turned/inside")
    assert inside.xattrs == {"user.note": b"caf\xe9"}


@pytest.mark.parametrize("keyword", ["SCHILY.acl.access", f"SCHILY.xattr.{ACCESS_ACL}"])
async def test_an_acl_is_not_shown_and_its_mask_is_nobodys_right(
    image: Image, tmp_path: Path, keyword: str
) -> None:
    acl = GIVEN_TO_LISA if keyword == "SCHILY.acl.access" else "\x02\0\0\0 and damaged"
    tar = tars.tar_bytes([file("held", b"x", mode=0o660, pax={keyword: acl})])
    layer = await image.store.add_imported(tars.blob(tmp_path, tar), diff_id=tars.diff_id(tar))
    held = await image.files.stat([layer.diff_id], "/held")
    assert (held.mode, held.xattrs) == (0o600, {})


async def test_hard_links_are_counted_as_the_image_shows_them(image: Image, tmp_path: Path) -> None:
    assert (await image.files.stat(image.layers, "/bin/tool")).nlink == 2
    alias = next(e for e in await image.files.list(image.layers, "/bin") if e.name == "alias")
    assert (alias.nlink, alias.mode, alias.size_bytes) == (2, 0o4755, 6)
    assert (await image.files.stat(image.layers, "/bin")).nlink == 1


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/links/absolute", b"hi"),
        ("/links/climbing", b"hi"),
        ("/links/relative", b"upper"),
        ("/links/etc/motd", b"hi"),
    ],
)
async def test_links_are_followed_inside_the_image(image: Image, path: str, wanted: bytes) -> None:
    assert await content(image, path) == wanted


async def test_a_link_itself_can_be_asked_for(image: Image) -> None:
    link = await image.files.stat(image.layers, "/links/etc", follow=False)
    assert (link.type, link.symlink_to, link.size_bytes) == (EntryType.SYMLINK, "/etc", 4)
    assert (await image.files.stat(image.layers, "/links/etc")).type is EntryType.DIRECTORY
    assert await names(image, "/links/etc") == ["group", "motd", "passwd"]


@pytest.mark.parametrize(
    "path",
    ["/links/loop", "/links/dangling", "/absent", "/etc/passwd/below", "/links/absolute/below"],
)
async def test_what_leads_nowhere_is_not_found(image: Image, path: str) -> None:
    with pytest.raises(NotFoundError):
        await image.files.stat(image.layers, path)
    with pytest.raises(NotFoundError):
        await image.files.list(image.layers, path)
    with pytest.raises(NotFoundError):
        await image.files.open(image.layers, path)


async def test_the_wrong_type_is_told_apart_from_absence(image: Image) -> None:
    with pytest.raises(WrongFileTypeError):
        await image.files.list(image.layers, "/etc/passwd")
    for path in ("/etc", "/console", "/pipe"):
        with pytest.raises(WrongFileTypeError):
            await image.files.open(image.layers, path)
    for path in ("/console", "/pipe"):
        with pytest.raises(WrongFileTypeError):
            await image.files.archive(image.layers, path)
    with pytest.raises(NotFoundError):
        await image.files.archive(image.layers, "/absent")


async def test_an_unknown_layer_is_not_found(image: Image) -> None:
    with pytest.raises(NotFoundError):
        await image.files.list([*image.layers, "sha256:" + "0" * 64], "/")


async def test_content_has_its_bytes_in_the_source_too(image: Image) -> None:
    found = await image.files.open(image.layers, "/swapped")
    streamed = await collected(found.chunks)
    assert streamed == b"is a file now"
    assert found.entry.size_bytes == len(streamed)
    if found.source is not None:
        with found.source.open("rb") as stream:
            stream.seek(found.offset)
            assert stream.read(len(streamed)) == streamed


async def archived(image: Image, path: str) -> tarfile.TarFile:
    data = await collected(await image.files.archive(image.layers, path))
    return tarfile.open(fileobj=io.BytesIO(data))


async def test_an_archive_of_a_directory_lies_under_its_base_name(image: Image) -> None:
    archive = await archived(image, "/merged")
    assert archive.getnames() == ["merged", "merged/replaced", "merged/upper"]
    body = archive.extractfile("merged/replaced")
    assert body is not None
    assert body.read() == b"new"


async def test_an_archive_of_the_root_lies_under_a_dot(image: Image) -> None:
    archive = await archived(image, "/")
    members = archive.getnames()
    assert members[:2] == [".", "./bin"]
    assert not [name for name in members if not name.startswith(".") or ".wh." in name]
    top = archive.getmember(".")
    assert (top.mode, top.uid) == (0o751, 1)
    odd = archive.getmember("./w\udcff\n")
    assert (odd.uid, odd.gid) == (70_000, 3 * 10**9)
    assert archive.getmember("./console").devmajor == 5
    inside = archive.getmember("./turned/inside").pax_headers
    assert inside["SCHILY.xattr.user.note"] == "caf\udce9"


async def test_an_archive_keeps_hard_links_when_both_names_are_inside(image: Image) -> None:
    archive = await archived(image, "/bin")
    first, second = archive.getmember("bin/alias"), archive.getmember("bin/tool")
    assert first.isreg()
    assert (second.islnk(), second.linkname) == (True, "bin/alias")
    alone = (await archived(image, "/bin/tool")).getmember("tool")
    assert (alone.isreg(), alone.size, alone.mtime) == (True, 6, -5)


async def test_an_archive_of_a_link_is_the_link(image: Image) -> None:
    archive = await archived(image, "/links/etc")
    assert [(m.name, m.issym(), m.linkname) for m in archive] == [("etc", True, "/etc")]


async def test_an_archive_that_nobody_finishes_holds_nothing(image: Image) -> None:
    for _ in range(3):
        chunks = await image.files.archive(image.layers, "/")
        await anext(chunks)
        await chunks.aclose()
        await image.files.archive(image.layers, "/")
    assert await names(image, "/bin") == ["alias", "tool"]
