"""Looking into images through the app on fakes: redirects, lists, downloads, archives."""

from __future__ import annotations

import gzip
import io
import logging
import os
import stat
import tarfile
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import ClientPayloadError, ClientSession
from yarl import URL

from contree.app.images.layer_store import EntryType
from contree.http.images import inspect
from tests.unit.http.world import Api, World

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.fixture
async def image_id(world: World) -> UUID:
    files = world.files
    files.add("/etc", EntryType.DIRECTORY, mode=0o755)
    files.add("/etc/passwd", data=b"root:x:0:0\n")
    files.add("/etc/mtab", EntryType.SYMLINK, symlink_to="/etc/passwd", mode=0o777)
    files.add("/fifo", EntryType.FIFO)
    files.add("/big", data=os.urandom(700_000))
    return await world.image(tag="common/base:1")


async def test_a_tag_is_redirected_relative_so_that_a_path_prefix_survives(
    api: Api, image_id: UUID
) -> None:
    response = await api.get("/v1/inspect/?tag=common/base:1", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, f"{image_id}/")
    followed = await api.get("/v1/inspect/?tag=common/base:1")
    assert (await followed.json())["uuid"] == str(image_id)


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("?tag=", 400), ("?tag=none", 404), ("?tag=%00", 400)]
)
async def test_a_tag_that_leads_nowhere_is_refused(api: Api, query: str, status: int) -> None:
    response = await api.get(URL(f"/v1/inspect/{query}", encoded=True))
    assert response.status == (await response.json())["status"] == status


async def test_a_missing_slash_is_redirected_with_the_query(api: Api, image_id: UUID) -> None:
    for path, location in (
        ("/v1/inspect", "inspect/"),
        ("/v1/inspect?tag=a%2Fb", "inspect/?tag=a%2Fb"),
        (f"/v1/inspect/{image_id}", f"{image_id}/"),
    ):
        response = await api.get(URL(path, encoded=True), allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (307, location)
    assert (await api.get("/v1/inspect/x", allow_redirects=False)).status == 400


async def test_an_image_is_shown_and_unknown_or_malformed_ones_are_not(
    api: Api, image_id: UUID, world: World
) -> None:
    body = await (await api.get(f"/v1/inspect/{image_id}/")).json()
    assert (body["uuid"], body["tag"]) == (str(image_id), "common/base:1")
    assert body["created_at"] == world.clock.now().isoformat()
    for name, status in ((UNKNOWN, 404), ("x", 400)):
        for tail in ("", "list?path=/", "download?path=/", "archive?path=/"):
            assert (await api.get(f"/v1/inspect/{name}/{tail}")).status == status


async def test_a_directory_is_listed_with_all_keys_and_full_modes(api: Api, image_id: UUID) -> None:
    body = await (await api.get(f"/v1/inspect/{image_id}/list?path=/etc")).json()
    assert body["path"] == "/etc"
    link, passwd = body["files"]
    assert passwd == {
        "path": "passwd",
        "size": 11,
        "owner": "root",
        "group": "root",
        "uid": 0,
        "gid": 0,
        "mode": stat.S_IFREG | 0o644,
        "mtime": 1_700_000_000,
        "nlink": 1,
        "is_dir": False,
        "is_regular": True,
        "is_symlink": False,
        "is_socket": False,
        "is_fifo": False,
        "symlink_to": "",
    }
    assert (link["is_symlink"], link["symlink_to"]) == (True, "/etc/passwd")
    assert stat.S_ISLNK(link["mode"])


@pytest.mark.parametrize("query", ["text", "text=1", "text="])
async def test_a_directory_is_listed_as_text(
    api: Api, image_id: UUID, world: World, query: str
) -> None:
    world.files.add("/etc/evil\x1b[2J", data=b"x" * 2000, mtime_s=-1)
    response = await api.get(f"/v1/inspect/{image_id}/list?path=/etc&{query}")
    assert response.content_type == "text/plain"
    assert (await response.text()).splitlines() == [
        "total 3",
        "-rw-r--r-- 1 root root 2000 Dec 31  1969 evil?[2J",
        "lrwxrwxrwx 1 root root    0 Nov 14  2023 mtab -> /etc/passwd",
        "-rw-r--r-- 1 root root   11 Nov 14  2023 passwd",
    ]


async def test_a_listing_comes_whole_in_pieces_or_by_pages(
    api: Api, image_id: UUID, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "RENDER_INLINE_MAX", 3)
    names = ["a\udce9", *(f"f{n}" for n in range(9))]
    world.files.add("/many", EntryType.DIRECTORY)
    for name in names:
        world.files.add(f"/many/{name}")
    path = f"/v1/inspect/{image_id}/list?path=/many"
    for headers in ({"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip"}):
        response = await api.get(path, headers=headers)
        assert (response.status, response.content_type) == (200, "application/json")
        assert response.content_length is None  # it is not there as a whole
        whole = await response.json()
        assert (whole["path"], len(whole["files"])) == ("/many", 10)
        assert [f["path"] for f in whole["files"]] == ["a\ufffd", *names[1:]]
    pages = [await (await api.get(f"{path}&limit=4&offset={at}")).json() for at in (0, 4, 8, 12)]
    assert [f for page in pages for f in page["files"]] == whole["files"]
    assert [len(page["files"]) for page in pages] == [4, 4, 2, 0]
    text = await (await api.get(f"{path}&text&limit=2&offset=8")).text()
    assert [line.split()[-1] for line in text.splitlines()] == ["0", "f7", "f8"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "offset=-1"])
async def test_a_page_of_a_listing_that_is_none_is_refused(
    api: Api, image_id: UUID, query: str
) -> None:
    response = await api.get(f"/v1/inspect/{image_id}/list?path=/etc&{query}")
    body = await response.json()
    assert (response.status, body["field"]) == (400, query.partition("=")[0])


async def test_a_relative_path_starts_at_the_root_and_is_shown_as_asked(
    api: Api, image_id: UUID
) -> None:
    body = await (await api.get(f"/v1/inspect/{image_id}/list?path=etc")).json()
    assert body["path"] == "etc"
    assert len(body["files"]) == 2


async def test_names_that_are_not_utf_8_are_shown_with_a_mark_and_found_by_their_bytes(
    api: Api, image_id: UUID, world: World
) -> None:
    world.files.add("/etc/caf\udce9 1+1", data=b"latin")
    body = await (await api.get(f"/v1/inspect/{image_id}/list?path=/etc")).json()
    assert body["files"][0]["path"] == "caf\ufffd 1+1"
    text = await (await api.get(f"/v1/inspect/{image_id}/list?path=/etc&text")).read()
    assert b"caf\xe9 1+1" in text
    url = URL(f"/v1/inspect/{image_id}/download?path=/etc/caf%E9+1%2B1", encoded=True)
    assert await (await api.get(url)).read() == b"latin"
    url = URL(f"/v1/inspect/{image_id}/download?path=/caf%E9", encoded=True)
    assert (await (await api.get(url)).json())["status"] == 404


@pytest.mark.parametrize(
    ("call", "path", "status"),
    [
        ("list", "/none", 404),
        ("list", "/etc/passwd", 422),
        ("list", "/fifo", 422),
        ("download", "/none", 404),
        ("download", "/etc", 422),
        ("download", "/fifo", 422),
        ("archive", "/none", 404),
        ("archive", "/fifo", 422),
    ]
    + [
        (call, path, 400)
        for call in ("list", "download", "archive")
        for path in ("", "/etc/../etc", "..", "/a%00b", "/" + "a" * 4096)
    ],
)
async def test_a_path_that_cannot_be_read_is_refused(
    api: Api, image_id: UUID, call: str, path: str, status: int
) -> None:
    url = URL(f"/v1/inspect/{image_id}/{call}?path={path}", encoded=True)
    response = await api.get(url)
    assert response.status == (await response.json())["status"] == status
    if call != "list":
        head = await api.head(url)
        assert (head.status, await head.read()) == (status, b"")


async def test_the_path_is_required(api: Api, image_id: UUID) -> None:
    response = await api.get(f"/v1/inspect/{image_id}/list")
    assert response.status == 400
    assert (await response.json())["field"] == "path"


async def test_a_file_is_downloaded_with_its_length_and_symlinks_are_followed(
    api: Api, image_id: UUID
) -> None:
    for path in ("/etc/passwd", "/etc/mtab"):
        url = f"/v1/inspect/{image_id}/download?path={path}"
        response = await api.get(url)
        assert await response.read() == b"root:x:0:0\n"
        assert response.content_type == "application/octet-stream"
        head = await api.head(url)
        assert (head.status, head.headers["Content-Length"]) == (200, "11")
        assert await head.read() == b""
    text = await api.get(f"/v1/inspect/{image_id}/download?path=/etc/passwd&text")
    assert text.content_type == "text/plain"


@pytest.mark.parametrize("from_source", [True, False])
async def test_a_large_file_and_any_range_of_it_arrive_whole(
    api: Api, image_id: UUID, world: World, tmp_path: Path, *, from_source: bool
) -> None:
    data = world.files.data["/big"]
    if from_source:
        (tmp_path / "layer").write_bytes(b"header" + data + b"trailer")
        world.files.sources["/big"] = (tmp_path / "layer", 6)
    url = f"/v1/inspect/{image_id}/download?path=/big"
    assert await (await api.get(url)).read() == data
    for asked, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=300000-", 300_000, 700_000),
        ("bytes=10-400009", 10, 400_010),
        ("bytes=-5", 699_995, 700_000),
        ("bytes=699999-900000", 699_999, 700_000),
    ):
        response = await api.get(url, headers={"Range": asked})
        assert response.status == 206
        assert await response.read() == data[start:stop]
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/700000"
    for asked in ("bytes=700000-", "bytes=-0"):
        response = await api.get(url, headers={"Range": asked})
        assert (response.status, response.headers["Content-Range"]) == (416, "bytes */700000")
    for ignored in ("bytes=5-1", "bytes=0-1,3-4", "lines=0-1", "bytes=-"):
        response = await api.get(url, headers={"Range": ignored})
        assert (response.status, await response.read()) == (200, data)
    # The connection is still good for the next request after each of these.
    assert (await api.get("/v1/whoami")).status == 200


@pytest.mark.parametrize("call", ["download", "archive"])
async def test_a_source_that_breaks_is_never_taken_for_the_whole(
    api: Api, image_id: UUID, world: World, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.files.short_by = 100_000
    caplog.set_level(logging.INFO)
    response = await api.get(f"/v1/inspect/{image_id}/{call}?path=/big", headers=IDENTITY)
    assert response.status == 200
    with pytest.raises(ClientPayloadError):
        await response.read()
    assert any("failed unexpectedly" in r.message for r in caplog.records)
    assert any(f"/{call} status=500" in r.message for r in caplog.records)


async def test_a_local_file_that_is_too_short_is_never_taken_for_the_whole(
    api: Api, image_id: UUID, world: World, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(b"x" * 200_000)
    world.files.sources["/big"] = (tmp_path / "layer", 0)
    with pytest.raises(ClientPayloadError):
        await (await api.get(f"/v1/inspect/{image_id}/download?path=/big")).read()


async def test_an_archive_begins_with_its_own_directory(api: Api, image_id: UUID) -> None:
    url = f"/v1/inspect/{image_id}/archive?path=/etc"
    response = await api.get(url, headers=IDENTITY)
    assert response.headers["Content-Disposition"] == 'attachment; filename="etc.tar"'
    assert response.content_type == "application/x-tar"
    assert response.headers["Transfer-Encoding"] == "chunked"
    with tarfile.open(fileobj=io.BytesIO(await response.read())) as tar:
        assert tar.getnames() == ["etc", "etc/mtab", "etc/passwd"]
    head = await api.head(url)
    assert (head.status, await head.read()) == (200, b"")


@pytest.mark.parametrize(
    ("path", "filename"),
    [
        ("/etc/passwd", "etc_passwd.tar"),
        ("/", "rootfs.tar"),
        ('/a"b\r\nX: y', "a_b__X__y.tar"),
    ],
)
async def test_the_name_of_an_archive_cannot_break_out_of_its_header(
    api: Api, image_id: UUID, world: World, path: str, filename: str
) -> None:
    if path not in world.files.entries:
        world.files.add(path)
    response = await api.head(f"/v1/inspect/{image_id}/archive", params={"path": path})
    disposition = response.headers["Content-Disposition"]
    assert disposition == f'attachment; filename="{filename}"'
    assert "X" not in response.headers


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (None, None),
        ("identity", None),
        ("br, zstd, deflate", None),
        ("gzip;q=0", None),
        ("gzip;q=0.0, *", None),
        ("gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
    ],
)
async def test_only_gzip_and_only_when_asked_for(
    api: Api, image_id: UUID, accepts: str | None, coding: str | None
) -> None:
    for index in range(20):
        assert (await api.patch(f"/v1/images/{image_id}/tag", json={"tag": f"t{index}"})).ok
    archive = f"/v1/inspect/{image_id}/archive?path=/big"
    for path in ("/v1/images", archive):
        async with api.session.get(
            api.make_url(path),
            headers={} if accepts is None else {"Accept-Encoding": accepts},
            skip_auto_headers=["Accept-Encoding"],
        ) as response:
            assert response.headers.get("Content-Encoding") == coding
            assert len(await response.read()) > 1000


async def test_a_compressed_archive_is_a_complete_gzip_file_on_the_wire(
    world: World, image_id: UUID
) -> None:
    client = world.client()
    async with client:
        secret = await world.token()
        async with (
            ClientSession(auto_decompress=False) as raw,
            raw.get(
                client.make_url(f"/v1/inspect/{image_id}/archive?path=/big"),
                headers={"Authorization": f"Bearer {secret}", "Accept-Encoding": "gzip"},
            ) as response,
        ):
            wire = await response.read()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(wire))) as tar:
        member = tar.extractfile("big")
        assert member is not None
        assert member.read() == world.files.data["/big"]


async def test_small_answers_and_downloads_are_not_compressed(api: Api, image_id: UUID) -> None:
    for path in ("/v1/whoami", f"/v1/inspect/{image_id}/download?path=/big"):
        response = await api.get(path, headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in response.headers
