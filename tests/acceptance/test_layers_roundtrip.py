"""What a run leaves behind, read again in another guest and without any: both must say the same."""

from __future__ import annotations

import json
import stat
import tarfile
import zlib
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra.images.registry import RunningRegistry
from infra.images.rootfs import python_image
from tests.acceptance.api import Api, Ran
from tests.acceptance.guest_tree import DESCRIBE, LARGE_MIB, MAKE
from tests.support.server import RunningServer

Described = dict[str, Any]


def python(api: Api, image: str, script: str, **fields: Any) -> Ran:
    return api.run(
        image, "python3", args=["-"], stdin={"value": script}, timeout=3600, **fields
    ).want_exit()


@pytest.fixture(scope="module")
def debian(api: Api, registry: RunningRegistry) -> str:
    """Debian with Python: over 200 MB in two layers."""
    image = python_image()
    return api.import_image(registry.push(image.layout, image.tag, image.repository))


@pytest.fixture(scope="module")
def made(api: Api, debian: str) -> tuple[Ran, Described]:
    """The run that made the tree, and how its own guest saw it before it was taken down."""
    ran = python(api, debian, MAKE + DESCRIBE)
    described = json.loads(ran.stdout)
    # A tar has no form for sockets, and nobody would listen on them any more.
    assert stat.S_ISSOCK(described["tree"].pop(b"/w/socket".hex())["mode"])
    return ran, described


def test_a_second_guest_sees_what_the_first_one_made(api: Api, made: tuple[Ran, Described]) -> None:
    ran, before = made
    after = json.loads(python(api, ran.image, DESCRIBE, disposable=True).stdout)
    for path, entry in before["tree"].items():
        assert after["tree"].get(path) == entry, bytes.fromhex(path)
    assert after == before
    assert (after["issue"], after["apt"], after["passwd_links"]) == (False, ["new"], 2)
    by_name = {bytes.fromhex(path): entry for path, entry in after["tree"].items()}
    assert by_name[b"/w/first"]["nlink"] == 3
    assert by_name[b"/w/plain"]["xattrs"]["user.note"] == b"a\0b\xff".hex()
    assert by_name[b"/w/large"]["size"] == LARGE_MIB << 20


def test_the_layer_holds_data_and_no_holes(made: tuple[Ran, Described]) -> None:
    size_bytes = made[0].operation["image_size"]
    assert LARGE_MIB << 20 < size_bytes < (LARGE_MIB + 4) << 20


def test_listing_says_the_same_without_a_guest(api: Api, made: tuple[Ran, Described]) -> None:
    ran, described = made
    by_name = {bytes.fromhex(path): entry for path, entry in described["tree"].items()}
    listed = api.listing(ran.image, "/w")
    top = {path: entry for path, entry in by_name.items() if path.count(b"/") == 2}
    assert len(listed) == len(top)
    for path, entry in top.items():
        try:
            item = listed[path.removeprefix(b"/w/").decode()]
        except UnicodeDecodeError:
            continue  # JSON cannot carry it; the archive does
        assert (item["mode"], item["uid"], item["gid"]) == (
            entry["mode"],
            entry["uid"],
            entry["gid"],
        )
        assert item["mtime"] == entry["mtime"]
        if not item["is_dir"]:
            assert item["nlink"] == entry["nlink"]
        if item["is_regular"]:
            assert item["size"] == entry["size"]
    assert listed["long-target"]["symlink_to"] == "t" * 3000
    assert listed["fifo"]["is_fifo"]
    deep = "/w" + ("/" + "e" * 250) * 12
    assert api.download(ran.image, deep + "/leaf") == b"deep"
    assert "issue" not in api.listing(ran.image, "/etc")
    assert api.listing(ran.image, "/etc/apt").keys() == {"new"}
    assert (
        api.refusal("GET", f"/inspect/{ran.image}/download", params={"path": "/etc/issue"})[
            "status"
        ]
        == 404
    )


def test_downloads_are_what_the_guest_wrote(api: Api, made: tuple[Ran, Described]) -> None:
    ran, described = made
    for name in ("large", "sparse", "passwd", "first", "empty"):
        crc = size = 0
        url, params = f"/inspect/{ran.image}/download", {"path": f"/w/{name}"}
        with api.http.stream("GET", url, params=params) as answer:
            assert answer.status_code == 200
            for chunk in answer.iter_bytes():
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        entry = described["tree"][f"/w/{name}".encode().hex()]
        assert (size, crc) == (entry["size"], entry["crc"]), name


def test_the_archive_carries_everything(
    api: Api, made: tuple[Ran, Described], tmp_path: Path
) -> None:
    ran, described = made
    path = tmp_path / "w.tar"
    url, params = f"/inspect/{ran.image}/archive", {"path": "/w"}
    with api.http.stream("GET", url, params=params) as answer, path.open("wb") as out:
        assert answer.status_code == 200
        for chunk in answer.iter_bytes():
            out.write(chunk)
    expected = {bytes.fromhex(key): entry for key, entry in described["tree"].items()}
    kinds = {
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.BLKTYPE: stat.S_IFBLK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
    }
    seen = set()
    with tarfile.open(path, errors="surrogateescape") as tar:
        for member in tar:
            name = b"/" + member.name.encode("utf-8", "surrogateescape")
            seen.add(name)
            if name == b"/w":
                continue
            entry = expected[name]
            kind = kinds.get(member.type, stat.S_IFREG)
            assert kind | member.mode == entry["mode"], name
            assert (member.uid, member.gid, int(member.mtime)) == (
                entry["uid"],
                entry["gid"],
                entry["mtime"],
            )
            if member.issym():
                target = member.linkname.encode("utf-8", "surrogateescape")
                assert target.hex() == entry["target"]
            if member.ischr() or member.isblk():
                assert [member.devmajor, member.devminor] == entry["device"]
            if member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                crc = 0
                while chunk := content.read(1 << 20):
                    crc = zlib.crc32(chunk, crc)
                assert (member.size, crc) == (entry["size"], entry["crc"]), name
            note = member.pax_headers.get("SCHILY.xattr.user.note")
            assert (note is not None) == (name == b"/w/plain")
    assert seen == expected.keys() | {b"/w"}


async def test_equal_changes_on_two_branches_are_one_layer(
    api: Api, debian: str, server: RunningServer
) -> None:
    script = (
        "import os\n"
        "os.makedirs('/same/d'); open('/same/d/f', 'w').write('equal')\n"
        "os.remove('/etc/issue')\n"
        "for p in ('/same/d/f', '/same/d', '/same', '/etc', '/'): os.utime(p, (1e9, 1e9))\n"
    )
    uuids = [
        api.spawn(debian, "python3", args=["-"], stdin={"value": script}, timeout=600)
        for _ in range(2)
    ]
    runs = [Ran(operation=api.wait(uuid)).want_exit() for uuid in uuids]
    assert runs[0].image != runs[1].image
    connection = await asyncpg.connect(server.dsn())
    try:
        layers = [
            json.loads(row["state"])["layer"]
            for row in await connection.fetch(
                "SELECT convert_from(state, 'UTF8') AS state FROM public.stored_events "
                "WHERE topic = 'contree.image.committed' "
                "AND originator_id = ANY($1::uuid[])",
                [run.image for run in runs],
            )
        ]
    finally:
        await connection.close()
    assert len(layers) == 2
    assert len(set(layers)) == 1
    (kept,) = (server.data_dir / "layers").glob(f"*{layers[0].removeprefix('sha256:')}*")
    assert kept.is_dir()


GIVE_BY_ACL = """
import os, struct
os.makedirs("/acl", mode=0o755)
open("/acl/secret", "w").write("for uid 1000")
os.chown("/acl/secret", 0, 2000)
os.chmod("/acl/secret", 0o600)
NOBODY = 2**32 - 1
entries = [(1, 6, NOBODY), (2, 6, 1000), (4, 0, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr("/acl/secret", "system.posix_acl_access", acl)
"""
"""As `setfacl -m u:1000:rw`: the mode shows 0660, its group bits are the mask."""

WHO_READS = """
import json, os
def reads(uid, gid):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
    try:
        open("/acl/secret", "r+").close()
    except PermissionError:
        os._exit(1)
    os._exit(0)
print(json.dumps({
    "mode": os.stat("/acl/secret").st_mode & 0o7777,
    "xattrs": os.listxattr("/acl/secret"),
    "user": reads(1000, 1000), "group": reads(1001, 2000), "other": reads(1002, 1002),
}))
"""

COPY_UP = """
import os
open("/acl/secret", "a").write(", and more")
"""


def test_a_lost_acl_gives_the_group_nothing(api: Api, debian: str) -> None:
    """A layer keeps no ACL; the group bits of a file with one are what it gave to others."""
    given = python(api, debian, GIVE_BY_ACL + WHO_READS)
    assert json.loads(given.stdout) == {
        "mode": 0o660,
        "xattrs": ["system.posix_acl_access"],
        "user": True,
        "group": False,
        "other": False,
    }
    later = {"mode": 0o600, "xattrs": [], "user": False, "group": False, "other": False}
    copied_up = python(api, given.image, WHO_READS + COPY_UP)
    assert json.loads(copied_up.stdout) == later
    assert json.loads(python(api, copied_up.image, WHO_READS, disposable=True).stdout) == later
    listed = api.listing(given.image, "/acl")["secret"]
    assert stat.S_IMODE(listed["mode"]) == 0o600
