"""Built by sending guest streams to a real store and looking at the layer's own tar."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contree.adapters.layers.reading.image_files import LayerImageFiles
from contree.adapters.layers.store import LayerDirectory
from contree.domain.errors import LayerRefused
from tests.support import layer_tars as tars
from tests.support.layer_tars import directory, file, hard_link, opaque, root, symlink, whiteout
from tests.unit.adapters.layers.strategies import guest_streams

LOWER = [
    root(mode=0o755, mtime=9, xattrs={"user.root": "kept"}),
    directory("d", mtime=9),
    file("d/one", b"1", mtime=9),
    file("d/two", b"2", mtime=9),
    directory("e", mtime=9),
    file("top", b"t", mtime=9),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LayerDirectory]:
    real = LayerDirectory(tmp_path / "layers")
    yield real
    real.close()


@pytest.fixture
async def base(store: LayerDirectory, tmp_path: Path) -> str:
    return await lower(store, tmp_path, LOWER)


async def lower(store: LayerDirectory, tmp_path: Path, members: list[tars.Member]) -> str:
    tar = tars.tar_bytes(members)
    blob = tars.blob(tmp_path, tar)
    layer = await store.add_imported(blob, diff_id=tars.diff_id(tar))
    return layer.diff_id


async def delta(store: LayerDirectory, below: list[str], *members: tars.Member) -> bytes:
    """Return the canonical tar."""
    data = tars.guest_bytes(members)
    layer = await store.add_delta(tars.stream_of(data), below=below, bytes_max=1 << 40)
    assert layer is not None
    tar = store.tar_path(layer.diff_id).read_bytes()
    assert tars.diff_id(tar) == layer.diff_id
    assert layer.size_bytes == len(tar)
    return tar


def names(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


ROOT = root(mode=0o755, mtime=9)


async def test_whiteouts_stand_where_the_name_stood(store: LayerDirectory, base: str) -> None:
    tar = await delta(store, [base], ROOT, directory("d", mtime=9), whiteout("d/one"), file("n"))
    assert names(tar) == ["d", "d/.wh.one", "n"]


async def test_an_opaque_directory_is_marked_only_when_it_hides_something(
    store: LayerDirectory, base: str
) -> None:
    tar = await delta(store, [base], ROOT, opaque("d"), file("d/new"), opaque("e"), opaque("f"))
    assert names(tar) == ["d", "d/.wh..wh..opq", "d/new", "e", "f"]


async def test_whiteouts_of_nothing_leave_no_trace(store: LayerDirectory, base: str) -> None:
    clean = await delta(store, [base], ROOT, opaque("d"), file("new"))
    noisy = [ROOT, opaque("d"), whiteout("d/one"), whiteout("d/zero"), file("new"), whiteout("x")]
    assert await delta(store, [base], *noisy) == clean


async def test_the_root_is_there_only_when_it_differs(store: LayerDirectory, base: str) -> None:
    assert names(await delta(store, [base], ROOT, file("n"))) == ["n"]
    assert names(await delta(store, [base], replace(ROOT, mtime=10), file("n"))) == [".", "n"]
    changed = await delta(store, [base], replace(ROOT, mode=0o700))
    assert names(changed) == ["."]
    with tarfile.open(fileobj=io.BytesIO(changed)) as archive:
        headers = archive.getmember(".").pax_headers
    assert headers["SCHILY.xattr.user.root"] == "kept", "the agent does not send the root's"


async def test_files_as_below_are_left_out_of_a_real_change(
    store: LayerDirectory, base: str
) -> None:
    """overlayfs copies up for a chmod that changes nothing; tools rewrite what they read."""
    same = [directory("d", mtime=9), file("d/one", b"1", mtime=9), directory("e", mtime=9)]
    tar = await delta(store, [base], ROOT, *same, file("top", b"changed", mtime=9))
    assert tar == await delta(store, [base], ROOT, file("top", b"changed", mtime=9))
    assert names(tar) == ["top"]


async def test_a_file_as_below_stays_when_a_hard_link_needs_it(
    store: LayerDirectory, base: str
) -> None:
    same = [directory("d", mtime=9), file("d/one", b"1", mtime=9), hard_link("d/own", "d/one")]
    tar = await delta(store, [base], ROOT, *same)
    assert names(tar) == ["d", "d/one", "d/own"]


async def test_a_directory_with_a_new_time_stays_in_a_real_change(
    store: LayerDirectory, base: str
) -> None:
    tar = await delta(store, [base], ROOT, directory("d", mtime=10), file("n"))
    assert names(tar) == ["d", "n"]


async def test_irrelevant_differences_do_not_change_the_bytes(
    store: LayerDirectory, base: str
) -> None:
    """Owner names, access times, header forms, names of extended headers."""
    plain = [ROOT, file("n", b"x", mtime=7, xattrs={"user.b": "1", "user.a": "2"})]
    told = await delta(store, [base], *plain)
    odd = file(
        "n",
        b"x",
        mtime=7,
        xattrs={"user.a": "2", "user.b": "1"},
        pax={"mtime": "7.25", "atime": "5", "ctime": "6", "uid": "0", "path": "n", "comment": "c"},
    )
    assert await delta(store, [base], ROOT, odd) == told
    info = odd.info()
    info.uname, info.gname = "somebody", "else"
    with tarfile.open(fileobj=io.BytesIO(told)) as archive:
        member = archive.getmember("n")
        assert (member.uname, member.gname, member.mtime) == ("", "", 7)
        assert set(member.pax_headers) == {"SCHILY.xattr.user.a", "SCHILY.xattr.user.b"}


ACL = "user::rw-,user:lisa:rw-,group::---,mask::rw-,other::---"


async def test_a_file_with_an_acl_is_the_file_that_the_next_guest_is_shown(
    store: LayerDirectory, base: str
) -> None:
    """It has no ACL there, and its group not what the mask was for."""
    plain = file("n", b"x", mode=0o600)
    with_acl = replace(plain, mode=0o660, pax={"SCHILY.acl.access": ACL})
    tar = await delta(store, [base], ROOT, with_acl)
    assert tar == await delta(store, [base], ROOT, plain)
    above = [base, tars.diff_id(tar)]
    data = tars.guest_bytes([ROOT, with_acl])
    assert await store.add_delta(tars.stream_of(data), below=above, bytes_max=1 << 30) is None
    files = LayerImageFiles(store)
    assert (await files.stat(above, "/n")).mode == 0o600
    files.close()


async def test_a_link_given_by_its_second_name_is_the_same_layer(
    store: LayerDirectory, base: str
) -> None:
    first = [ROOT, file("n1", b"x"), hard_link("n2", "n1"), hard_link("n3", "n1")]
    second = [ROOT, file("n1", b"x"), hard_link("n2", "n1"), hard_link("n3", "n2", uid=5)]
    assert await delta(store, [base], *first) == await delta(store, [base], *second)


async def test_sparse_and_odd_files_survive(store: LayerDirectory, base: str) -> None:
    long = "n" * 255
    members = [
        ROOT,
        file(long, b"l", uid=2**32 - 2, gid=70_000, mtime=2**35),
        tars.sparse("s", [(4096, b"data"), (1 << 33, b"end")], (1 << 33) + 4096),
        file("\udcfe\n\t", b"odd"),
    ]
    members[1:] = sorted(
        members[1:],
        key=lambda m: m.pax.get("GNU.sparse.name", m.name).encode("utf-8", "surrogateescape"),
    )
    tar = await delta(store, [base], *members)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        odd = archive.getmember(long)
        assert (odd.uid, odd.gid, odd.mtime) == (2**32 - 2, 70_000, 2**35)
        sparse = archive.getmember("s")
        assert sparse.size == (1 << 33) + 4096
        body = archive.extractfile(sparse)
        assert body is not None
        body.seek(1 << 33)
        assert body.read(3) == b"end"
        assert "\udcfe\n\t" in archive.getnames()
    assert len(tar) < 20_000


async def test_a_sparse_file_reads_back_with_its_holes(store: LayerDirectory, base: str) -> None:
    size = 700_000
    tar = await delta(store, [base], ROOT, tars.sparse("s", [(600_000, b"data")], size))
    files = LayerImageFiles(store)
    found = await files.open([base, tars.diff_id(tar)], "/s")
    assert found.source is None
    assert await tars.collected(found.chunks) == bytes(600_000) + b"data" + bytes(99_996)
    archive = await tars.collected(await files.archive([base, tars.diff_id(tar)], "/s"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getmember("s").size == size
    files.close()


async def test_a_name_of_full_length_can_be_removed(store: LayerDirectory, tmp_path: Path) -> None:
    """`.wh.` makes it longer than a filesystem allows; the layer has no other way to say it."""
    long = "n" * 255
    below = await lower(store, tmp_path, [file(long)])
    tar = await delta(store, [below], root(), whiteout(long))
    assert names(tar) == [".wh." + long]
    other = LayerDirectory(tmp_path / "other")
    again = await other.add_imported(tars.blob(tmp_path, tar), diff_id=tars.diff_id(tar))
    assert again.entry_count == 1
    other.close()


OVERLAY = "trusted.overlay."
REFUSED = {
    "out of order": [ROOT, file("b"), file("a")],
    "siblings before children": [ROOT, directory("d"), file("d-"), file("d/x")],
    "a parent that is missing": [ROOT, file("no/parent")],
    "a parent that is a file": [ROOT, file("f"), file("f/x")],
    "a second root": [ROOT, root()],
    "a root that is no directory": [symlink("./", "x")],
    "redirected": [ROOT, directory("d", xattrs={OVERLAY + "redirect": "/etc"})],
    "metacopied": [ROOT, file("f", xattrs={OVERLAY + "metacopy": ""})],
    "opaque in an unknown way": [ROOT, directory("d", xattrs={OVERLAY + "opaque": "x"})],
    "an opaque file": [ROOT, file("f", xattrs={OVERLAY + "opaque": "y"})],
    "a whiteout below a directory by name": [ROOT, directory("d"), file("d/.wh..wh..opq")],
    "a link to a directory": [ROOT, directory("d"), hard_link("h", "d")],
    "a link to a whiteout": [ROOT, whiteout("d"), hard_link("h", "d")],
    "a link to itself": [ROOT, hard_link("h", "h")],
    "a link to what comes later": [ROOT, hard_link("a", "b"), file("b")],
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_stream_of_another_form_is_refused(
    store: LayerDirectory, base: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(LayerRefused):
        await delta(store, [base], *REFUSED[what])
    assert not list((tmp_path / "layers" / ".staging").iterdir())
    assert len(list((tmp_path / "layers").iterdir())) == 2


async def _stored_twice(members: list[tars.Member], directory: Path) -> tuple[str, str] | None:
    """Store a stream, then what the first layer's image shows, as another stream."""
    store = LayerDirectory(directory)
    try:
        data = tars.guest_bytes(members)
        one = await store.add_delta(tars.stream_of(data), below=[], bytes_max=1 << 30)
        two = await store.add_delta(tars.stream_of(data, 4096), below=[], bytes_max=1 << 30)
        if one is None or two is None:
            assert one is two
            return None
        # What the layer itself holds, sent by a guest again, over nothing: the same layer.
        tar = store.tar_path(one.diff_id).read_bytes()
        if names(tar)[0] != ".":
            tar = tars.guest_bytes([members[0]])[:-1024] + tar
        three = await store.add_delta(tars.stream_of(tar), below=[], bytes_max=1 << 30)
        assert three is not None
        assert three.diff_id == one.diff_id
        return one.diff_id, two.diff_id
    finally:
        store.close()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(members=guest_streams(), number=st.uuids())
def test_the_canonical_form_is_a_fixed_point(
    members: list[tars.Member], number: object, tmp_path: Path
) -> None:
    digests = asyncio.run(_stored_twice(members, tmp_path / str(number)))
    if digests is not None:
        assert digests[0] == digests[1]
