"""Trees on a real filesystem, captured by the sanitized agent, read back with tarfile."""

import io
import os
import random
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contree.adapters.microvm.agent import commands
from contree.adapters.microvm.agent.messages import Captured, Configured, GuestError, GuestErrorCode
from tests.guest.conftest import Hosted
from tests.guest.raw_guest import configuration

MTIME = 1_600_000_000
ROOT_ALONE_BYTES = 512 + 1024


def read(tar: bytes) -> dict[str, tarfile.TarInfo]:
    """Return the members by path; a duplicate fails."""
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        members = archive.getmembers()
    by_name = {member.name: member for member in members}
    assert len(by_name) == len(members)
    return by_name


def content(tar: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def test_an_untouched_upper_is_its_root_alone(agent: Hosted) -> None:
    agent.upper.chmod(0o1751)
    os.chown(agent.upper, 5, 6)
    os.utime(agent.upper, (MTIME, MTIME))
    tar = agent.capture()
    assert len(tar) == ROOT_ALONE_BYTES
    assert tar[:3] == b"./\0"
    assert tar[512:] == bytes(1024)
    root = read(tar)["."]
    assert root.isdir()
    assert (root.mode, root.uid, root.gid, root.mtime) == (0o1751, 5, 6, MTIME)


def test_every_kind_of_entry_keeps_its_attributes(agent: Hosted) -> None:
    upper = agent.upper
    (upper / "file").write_bytes(b"x" * 513)
    (upper / "empty").touch()
    (upper / "dir").mkdir(mode=0o700)
    (upper / "link").symlink_to("../any where")
    os.mkfifo(upper / "fifo", 0o604)
    os.mknod(upper / "tty", stat.S_IFCHR | 0o620, os.makedev(5, 300))
    os.mknod(upper / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 70_000))
    for name in ("file", "link", "fifo"):
        os.chown(upper / name, 1000, 1001, follow_symlinks=False)
    (upper / "file").chmod(0o6754)
    os.utime(upper / "file", ns=(0, MTIME * 10**9 + 999_999_999))
    tar = agent.capture()
    members = read(tar)
    file = members["file"]
    assert (file.mode, file.uid, file.gid, file.size, file.mtime) == (
        0o6754,
        1000,
        1001,
        513,
        MTIME,
    )
    assert content(tar, "file") == b"x" * 513
    assert members["empty"].isreg()
    assert members["dir"].isdir()
    assert members["dir"].mode == 0o700
    assert members["link"].issym()
    assert (members["link"].linkname, members["link"].uid) == ("../any where", 1000)
    assert members["fifo"].isfifo()
    assert members["tty"].ischr()
    assert (members["tty"].devmajor, members["tty"].devminor) == (5, 300)
    assert members["disk"].isblk()
    assert (members["disk"].devmajor, members["disk"].devminor) == (8, 70_000)
    assert {member.uname for member in members.values()} == {""}


def walk(directory: Path, prefix: bytes = b"") -> Iterator[bytes]:
    """Yield the paths below in the order that the protocol promises."""
    for name, path in sorted((os.fsencode(path.name), path) for path in directory.iterdir()):
        yield prefix + name
        if path.is_dir():
            yield from walk(path, prefix + name + b"/")


def test_entries_come_depth_first_in_byte_order(agent: Hosted) -> None:
    chance = random.Random(7)
    names = [os.fsdecode(bytes([c]) * n) for c in b"+-0aAz~\x01\xc3\xff" for n in (1, 2, 3)]
    for _ in range(300):
        target = agent.upper.joinpath(*chance.sample(names, chance.randint(1, 4)))
        if any(parent.is_file() for parent in (target, *target.parents)):
            continue
        if chance.random() < 0.5:
            target.mkdir(parents=True, exist_ok=True)
        elif target.parent.is_dir() and not target.exists():
            target.touch()
    expected = list(walk(agent.upper))
    assert len(expected) > 150
    root, *seen = [os.fsencode(name) for name in read(agent.capture())]
    assert root == b"."
    assert seen == expected
    assert seen == sorted(seen, key=lambda name: name.split(b"/"))


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 100,
        b"n" * 101,
        b"n" * 255,
        "grüße".encode(),
        b"\xff\xfe",
        b"a\nb",
        b" = ",
        b"\xed\xa0\x80",
    ],
)
def test_names_survive_whatever_their_bytes(agent: Hosted, name: bytes) -> None:
    path = agent.upper / os.fsdecode(name)
    path.write_bytes(b"here")
    (agent.upper / "to").symlink_to(os.fsdecode(name))
    os.link(path, agent.upper / "zz-other")
    tar = agent.capture()
    members = {os.fsencode(key): member for key, member in read(tar).items()}
    assert set(members) == {b".", name, b"to", b"zz-other"}
    assert os.fsencode(members[b"to"].linkname) == name
    first, second = sorted([name, b"zz-other"])
    assert members[second].islnk()
    assert os.fsencode(members[second].linkname) == first
    assert (b"hdrcharset=BINARY" in tar) == (name in (b"\xff\xfe", b"\xed\xa0\x80"))
    assert content(tar, os.fsdecode(first)) == b"here"


def test_long_paths_and_deep_trees_survive(agent: Hosted) -> None:
    parts = ["d" * 200] * 15
    deep = agent.upper.joinpath(*parts)
    deep.mkdir(parents=True)
    (deep / "leaf").write_bytes(b"deep")
    name = "/".join([*parts, "leaf"])
    tar = agent.capture()
    assert content(tar, name) == b"deep"
    assert len(read(tar)) == 17


def test_a_path_over_the_limit_is_an_error(agent: Hosted) -> None:
    with ExitStack() as stack:
        at = os.open(agent.upper, os.O_PATH)
        for _ in range(21):  # by descriptors: the whole path is longer than a system call takes
            stack.callback(os.close, at)
            os.mkdir("d" * 200, dir_fd=at)
            at = os.open("d" * 200, os.O_PATH, dir_fd=at)
        os.close(at)
    agent.send(commands.capture(1 << 30))
    assert agent.expect(GuestError).code is GuestErrorCode.LIMIT


@pytest.mark.parametrize("uid", [0o7777777, 0o10000000, 2**32 - 2])
def test_large_owners_survive(agent: Hosted, uid: int) -> None:
    (agent.upper / "f").touch()
    os.chown(agent.upper / "f", uid, uid - 1)
    member = read(agent.capture())["f"]
    assert (member.uid, member.gid) == (uid, uid - 1)


@pytest.mark.parametrize("mtime_s", [-1, -(2**31), 0, 2**33])
def test_unusual_times_survive(agent: Hosted, mtime_s: int) -> None:
    (agent.upper / "f").touch()
    os.utime(agent.upper / "f", (0, mtime_s))
    kept = int((agent.upper / "f").stat().st_mtime)
    assert read(agent.capture())["f"].mtime == kept


def test_extended_attributes_are_recorded_raw(agent: Hosted) -> None:
    file = agent.upper / "f"
    file.touch()
    value = bytes(range(256)) + "ü".encode()
    os.setxattr(file, "user.any", value)
    os.setxattr(file, "user.empty", b"")
    tar = agent.capture()
    assert b"SCHILY.xattr.user.any=" + value + b"\n" in tar
    assert b"SCHILY.xattr.user.empty=\n" in tar


def test_an_attribute_name_with_an_equals_sign_is_refused(agent: Hosted) -> None:
    (agent.upper / "f").touch()
    os.setxattr(agent.upper / "f", "user.a=b", b"")
    agent.send(commands.capture(1 << 20))
    assert agent.expect(GuestError).code is GuestErrorCode.BAD_NAME


def test_whiteouts_and_opaque_directories_stay_in_overlay_form(agent: Hosted) -> None:
    upper = agent.upper
    (upper / "opaque").mkdir()
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "opaque", "trusted.overlay.origin", b"\0\1")
    os.setxattr(upper, "trusted.overlay.impure", b"y")
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.link(upper / "gone", upper / "gone-too")  # overlayfs shares one inode among whiteouts
    members = read(agent.capture())
    for name in ("gone", "gone-too"):
        assert members[name].ischr()
        assert (members[name].devmajor, members[name].devminor) == (0, 0)
    assert members["opaque"].pax_headers == {"SCHILY.xattr.trusted.overlay.opaque": "y"}
    assert members["."].pax_headers == {}


def test_a_name_that_means_a_deletion_is_refused_by_name(agent: Hosted) -> None:
    (agent.upper / "d").mkdir()
    (agent.upper / "d" / ".wh.passwd").touch()
    agent.send(commands.capture(1 << 20))
    error = agent.expect(GuestError)
    assert error.code is GuestErrorCode.BAD_NAME
    assert "d/.wh.passwd" in error.message


def test_hard_links_point_to_the_first_path_in_the_stream(agent: Hosted) -> None:
    upper = agent.upper
    (upper / "z").mkdir()
    (upper / "z" / "one").write_bytes(b"shared")
    os.link(upper / "z" / "one", upper / "m")
    os.link(upper / "z" / "one", upper / "a")
    (upper / "sym").symlink_to("a")
    os.link(upper / "sym", upper / "sym2", follow_symlinks=False)
    tar = agent.capture()
    members = read(tar)
    assert members["a"].isreg()
    assert not members["a"].islnk()
    assert content(tar, "a") == b"shared"
    for name in ("m", "z/one"):
        assert members[name].islnk()
        assert members[name].linkname == "a"
        assert members[name].size == 0
    assert members["sym"].issym()
    assert (members["sym2"].islnk(), members["sym2"].linkname) == (True, "sym")


def test_many_hard_links_find_their_first_paths(agent: Hosted) -> None:
    for i in range(1000):
        (agent.upper / f"a{i}").touch()
        os.link(agent.upper / f"a{i}", agent.upper / f"b{i}")
    members = read(agent.capture())
    assert all(members[f"b{i}"].linkname == f"a{i}" for i in range(1000))


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [(0, 4096)],
        [(1 << 20, 70_000)],
        [(0, 100_000), (10 << 20, 1), (20 << 20, 4096)],
        [(i << 16, 10) for i in range(100)],
    ],
)
def test_sparse_files_keep_content_and_holes(agent: Hosted, runs: list[tuple[int, int]]) -> None:
    size = 40 << 20
    chance = random.Random(1)
    file = agent.upper / "sparse"
    with file.open("wb") as out:
        for offset, length in runs:
            out.seek(offset)
            out.write(chance.randbytes(length))
        out.truncate(size)
    tar = agent.capture()
    member = read(tar)["sparse"]
    assert member.size == size
    assert content(tar, "sparse") == file.read_bytes()
    assert len(tar) < 5_000_000
    assert member.pax_headers["GNU.sparse.realsize"] == str(size)


def test_large_files_pass_unharmed(agent: Hosted) -> None:
    data = random.Random(2).randbytes(10_000_001)
    (agent.upper / "large").write_bytes(data)
    (agent.upper / "after").write_bytes(b"x")
    tar = agent.capture()
    assert content(tar, "large") == data
    assert content(tar, "after") == b"x"


def test_a_file_beyond_8_gib_has_its_size_in_a_record(agent: Hosted) -> None:
    with (agent.upper / "huge").open("wb") as out:
        out.seek((9 << 30) - 1)
        out.write(b"!")
    tar = agent.capture()
    member = read(tar)["huge"]
    assert member.size == 9 << 30
    assert len(tar) < 100_000


def test_sockets_are_left_out(agent: Hosted) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(agent.upper)
        try:
            end.bind("socket")
        finally:
            os.chdir(here)
    assert set(read(agent.capture())) == {"."}


def test_the_limit_counts_the_stream_to_the_byte(start: Callable[[], Hosted]) -> None:
    outcomes = []
    for limit in (ROOT_ALONE_BYTES + 1024, ROOT_ALONE_BYTES + 1023):
        agent = start()
        (agent.upper / "f").write_bytes(b"x")
        agent.send(commands.configure(configuration(0)))
        agent.expect(Configured)
        agent.send(commands.capture(limit))
        try:
            outcomes.append(agent.expect(Captured).size_bytes)
        except AssertionError:
            error = agent.frames[-1]
            assert isinstance(error, GuestError)
            outcomes.append(error.code)
    assert outcomes == [ROOT_ALONE_BYTES + 1024, GuestErrorCode.LIMIT]


def test_a_directory_of_many_names_is_sorted(agent: Hosted) -> None:
    chance = random.Random(3)
    names = sorted({f"{chance.getrandbits(64):x}" for _ in range(5_000)})
    for name in chance.sample(names, len(names)):
        (agent.upper / name).touch()
    assert list(read(agent.capture())) == [".", *names]
