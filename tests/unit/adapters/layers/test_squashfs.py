"""Built by making layers mountable for real, and reading them back with unsquashfs."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.squashfs.format import BLOCK_BYTES
from contree.adapters.layers.store import LayerDirectory
from contree.domain.errors import LayerRefused
from tests.support import layer_tars as tars
from tests.support.layer_tars import (
    device,
    directory,
    file,
    hard_link,
    opaque,
    root,
    symlink,
    whiteout,
)
from tests.support.squashfs import joined

CAPABILITY = "\x01\0\0\x02\0\x04" + 14 * "\0"
"""cap_net_bind_service, as in linux/capability.h struct vfs_cap_data version 2."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


async def imported(store: LayerDirectory, tmp_path: Path, *members: tars.Member) -> str:
    tar = tars.tar_bytes(members)
    blob = tars.blob(tmp_path, tar)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    return layer.diff_id


async def mounted(store: LayerDirectory, *layers: str) -> Path:
    """The topmost layer's squashfs in one file, beside its mountable file."""
    image = (await store.mount_plan(layers)).squashfs[-1]
    return joined(image, image[0].path.with_suffix(".joined"))


def unpacked(image: Path, tmp_path: Path) -> Path:
    target = tmp_path / f"out-{image.parent.name[:8]}-{image.stem}"
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-no-progress", "-d", str(target), str(image)],
        check=True,
        capture_output=True,
    )
    return target


def listing(image: Path) -> dict[bytes, bytes]:
    """`unsquashfs -lln`: the first columns by path; numbers, and nothing is unpacked."""
    text = subprocess.run(
        ["unsquashfs", "-lln", str(image)], check=True, capture_output=True
    ).stdout
    found = {}
    for line in text.splitlines():
        head, root_name, path = line.partition(b"squashfs-root")
        if root_name:
            found[path.partition(b" -> ")[0]] = b" ".join(head.split())
    return found


async def test_every_type_goes_in_and_comes_out(store: LayerDirectory, tmp_path: Path) -> None:
    big = os.urandom(300_000)
    layer = await imported(
        store,
        tmp_path,
        root(mode=0o711, uid=5, gid=70_000, mtime=1234),
        directory("d", mode=0o1777, mtime=99),
        file("d/big", big, mode=0o4755, uid=3_000_000_000, mtime=2**31 + 7),
        hard_link("d/link", "d/big"),
        symlink("s", "t" * 300),
        device("c", 5, 1, mode=0o620),
        tars.Member(name="b", type=tarfile.BLKTYPE, device=(259, 7)),
        tars.Member(name="p", type=tarfile.FIFOTYPE, mode=0o600),
        file("caf\udce9\n", b"odd"),
        file("n" * 255, b"long"),
        file("deep/" * 100 + "x", b"far"),
        file("x", b"attrs", xattrs={"user.a": "\udcff=\n", "security.capability": CAPABILITY}),
    )
    image = await mounted(store, layer)
    assert image.stat().st_size % 4096 == 0
    lines = listing(image)
    assert lines[b""].startswith(b"drwx--x--x 5/70000 ")
    assert lines[b"/d/big"].startswith(b"-rwsr-xr-x 3000000000/0 300000 ")
    assert lines[b"/c"].startswith(b"crw--w---- 0/0 5, 1 ")
    assert lines[b"/b"].startswith(b"brw-r--r-- 0/0 259, 7 ")
    assert lines[b"/p"].startswith(b"prw------- ")

    out = unpacked(image, tmp_path)
    assert (out / "d/big").read_bytes() == big
    assert (out / "d/big").stat().st_ino == (out / "d/link").stat().st_ino
    assert (out / "d/big").stat().st_mtime == 2**31 + 7
    assert (out.stat().st_mtime, stat.S_IMODE(out.stat().st_mode)) == (1234, 0o711)
    assert str((out / "s").readlink()) == "t" * 300
    assert (out / "caf\udce9\n").read_bytes() == b"odd"
    assert (out / ("deep/" * 100 + "x")).read_bytes() == b"far"
    assert os.getxattr(out / "x", "user.a") == b"\xff=\n"
    if os.geteuid() == 0:
        assert os.getxattr(out / "x", "security.capability") == CAPABILITY.encode()


async def test_an_imported_files_group_is_not_given_what_its_acl_gave_a_user(
    store: LayerDirectory, tmp_path: Path
) -> None:
    acl = {"SCHILY.acl.access": "user::rw-,user:lisa:rw-,group::---,mask::rw-,other::---"}
    held = file("f", b"x", mode=0o4660, pax=acl)
    layer = await imported(store, tmp_path, root(), held, hard_link("g", "f"))
    lines = listing(await mounted(store, layer))
    assert lines[b"/f"].startswith(b"-rwS------ ")
    assert lines[b"/g"].startswith(b"-rwS------ ")
    files = LayerImageFiles(store)
    assert [entry.mode for entry in await files.list([layer], "/")] == [0o4600, 0o4600]
    archived = await tars.collected(await files.archive([layer], "/f"))
    with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        (member,) = archive
    assert (member.mode, member.pax_headers) == (0o4600, {})
    files.close()


async def test_whiteouts_and_opaque_directories_take_overlay_form(
    store: LayerDirectory, tmp_path: Path
) -> None:
    base = await imported(store, tmp_path, root(mtime=1), file("gone"), directory("d"), file("d/x"))
    layer = await imported(
        store, tmp_path, file(".wh.gone"), directory("d"), file("d/.wh..wh..opq"), file("d/y")
    )
    lines = listing(await mounted(store, base, layer))
    assert lines[b"/gone"].startswith(b"c--------- 0/0 0, 0 ")
    assert set(lines) == {b"", b"/gone", b"/d", b"/d/y"}
    if os.geteuid() == 0:
        out = unpacked(await mounted(store, base, layer), tmp_path)
        assert os.getxattr(out / "d", "trusted.overlay.opaque") == b"y"


async def test_a_guests_delta_takes_the_same_form(store: LayerDirectory, tmp_path: Path) -> None:
    base = await imported(store, tmp_path, root(mtime=1), file("gone"), directory("d"), file("d/x"))
    data = tars.guest_bytes([root(mtime=1), opaque("d"), file("d/y"), whiteout("gone")])
    delta = await store.add_delta(tars.stream_of(data), below=[base], bytes_max=1 << 30)
    assert delta is not None
    lines = listing(await mounted(store, base, delta.diff_id))
    assert lines[b"/gone"].startswith(b"c--------- 0/0 0, 0 ")
    assert set(lines) == {b"", b"/gone", b"/d", b"/d/y"}


async def test_implied_directories_show_what_lies_below_them(
    store: LayerDirectory, tmp_path: Path
) -> None:
    """overlayfs shows the topmost directory's metadata: a layer without one must not invent it."""
    strict = await imported(
        store,
        tmp_path,
        root(mode=0o750, uid=3, gid=4, mtime=7),
        directory("etc", mode=0o700, uid=8, mtime=9, xattrs={"user.e": "1"}),
    )
    open_ = await imported(store, tmp_path, directory("etc", mode=0o777, gid=6, mtime=5))
    added = await imported(store, tmp_path, file("etc/conf", b"x"))

    on_strict = await mounted(store, strict, added)
    on_open = await mounted(store, open_, added)
    on_nothing = await mounted(store, added)

    assert len({on_strict, on_open, on_nothing}) == 3
    assert listing(on_strict)[b""].startswith(b"drwxr-x--- 3/4 ")
    assert listing(on_strict)[b"/etc"].startswith(b"drwx------ 8/0 ")
    assert listing(on_open)[b"/etc"].startswith(b"drwxrwxrwx 0/6 ")
    assert listing(on_open)[b""].startswith(b"drwxr-xr-x 0/0 ")
    assert listing(on_nothing)[b"/etc"].startswith(b"drwxr-xr-x 0/0 ")
    out = unpacked(on_strict, tmp_path)
    assert (out.stat().st_mtime, (out / "etc").stat().st_mtime) == (7, 9)
    assert os.getxattr(out / "etc", "user.e") == b"1"


async def test_one_squashfs_serves_every_stack_it_fits(
    store: LayerDirectory, tmp_path: Path
) -> None:
    whole = await imported(store, tmp_path, root(mode=0o700), directory("a"), file("a/b"))
    one = await imported(store, tmp_path, root(), directory("x"))
    assert await mounted(store, whole) == await mounted(store, one, whole)
    assert "self" in (await mounted(store, whole)).name


async def test_an_opaque_root_cuts_off_what_is_below(store: LayerDirectory, tmp_path: Path) -> None:
    base = await imported(store, tmp_path, root(), file("old"))
    layer = await imported(store, tmp_path, root(), file(".wh..wh..opq"), file("new"))
    plan = await store.mount_plan([base, layer])
    assert len(plan.squashfs) == 1
    assert set(listing(await mounted(store, base, layer))) == {b"", b"/new"}


async def test_times_out_of_range_are_clamped_in_the_guests_view(
    store: LayerDirectory, tmp_path: Path
) -> None:
    layer = await imported(store, tmp_path, root(), file("old", mtime=-5), file("far", mtime=2**40))
    out = unpacked(await mounted(store, layer), tmp_path)
    assert (out / "old").stat().st_mtime == 0
    assert (out / "far").stat().st_mtime == 2**32 - 1


async def test_duplicates_are_resolved(store: LayerDirectory, tmp_path: Path) -> None:
    layer = await imported(
        store,
        tmp_path,
        root(),
        file("a", b"first"),
        hard_link("keeps", "a"),
        directory("d"),
        file("d/x", b"goes with d"),
        file("a", b"second"),
        symlink("d", "a"),
    )
    out = unpacked(await mounted(store, layer), tmp_path)
    assert (out / "a").read_bytes() == b"second"
    assert (out / "keeps").read_bytes() == b"first"
    assert (out / "d").is_symlink()


async def test_an_empty_layer_can_be_mounted(store: LayerDirectory, tmp_path: Path) -> None:
    layer = await imported(store, tmp_path)
    assert set(listing(await mounted(store, layer))) == {b""}


async def test_what_could_steer_overlayfs_is_refused_or_left_out(
    store: LayerDirectory, tmp_path: Path
) -> None:
    with pytest.raises(LayerRefused, match="0:0"):
        await imported(store, tmp_path, device("hidden", 0, 0))
    layer = await imported(
        store, tmp_path, root(), directory("d", xattrs={"trusted.overlay.redirect": "/etc"})
    )
    image = await mounted(store, layer)
    if os.geteuid() == 0:
        assert os.listxattr(unpacked(image, tmp_path) / "d") == []


SIZES = st.integers(1, 6 * BLOCK_BYTES)


@st.composite
def sparse_files(draw: st.DrawFn) -> tuple[list[tuple[int, bytes]], int]:
    size = draw(SIZES)
    cuts = sorted(set(draw(st.lists(st.integers(0, size), max_size=8))))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return [(start, os.urandom(end - start)) for start, end in pairs], size


def flat(segments: list[tuple[int, bytes]], size: int) -> bytes:
    content = bytearray(size)
    for offset, data in segments:
        content[offset : offset + len(data)] = data
    return bytes(content)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=st.lists(sparse_files(), min_size=12, max_size=12))
async def test_sparse_files_keep_their_content(
    cases: list[tuple[list[tuple[int, bytes]], int]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = LayerDirectory(work / "layers")
        members = [tars.sparse(f"s{n:02}", *case) for n, case in enumerate(cases)]
        layer = await imported(store, work, root(), *members, file("z", b"after"))
        out = unpacked(await mounted(store, layer), work)
        for n, case in enumerate(cases):
            assert (out / f"s{n:02}").read_bytes() == flat(*case), (n, case[1])
        assert (out / "z").read_bytes() == b"after"
        store.close()


async def test_a_large_sparse_file_stays_small(store: LayerDirectory, tmp_path: Path) -> None:
    size = (8 << 30) + 77
    member = tars.sparse("s", [(5, b"a"), (4 << 30, b"middle"), (size - 1, b"z")], size)
    image = await mounted(store, await imported(store, tmp_path, root(), member))
    assert image.stat().st_size < 1_000_000
    assert f" {size} ".encode() in listing(image)[b"/s"] + b" "


async def test_a_whiteout_that_hides_nothing_is_left_out(
    store: LayerDirectory, tmp_path: Path
) -> None:
    """The kernel lists it by name in a directory that no other layer has."""
    base = await imported(store, tmp_path, root(), directory("d"), file("d/x"), file("y"))
    other = await imported(store, tmp_path, root())
    layer = await imported(
        store,
        tmp_path,
        root(),
        directory("d"),
        file("d/.wh.x"),
        file("d/.wh.absent"),
        directory("e"),
        file("e/.wh..wh..opq"),
        file("e/.wh.z"),
        file(".wh.y"),
    )
    assert set(listing(await mounted(store, base, layer))) == {b"", b"/d", b"/d/x", b"/e", b"/y"}
    assert set(listing(await mounted(store, other, layer))) == {b"", b"/d", b"/e"}
