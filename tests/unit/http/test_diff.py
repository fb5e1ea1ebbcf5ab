"""Diffs of images through the app on fakes: forms, pages, references, refusals."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from uuid import UUID

import pytest
from yarl import URL

from contree.domain.token import Permission
from tests.unit.http.world import Api, World, bearer

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
FILE_OF_1970 = {
    "type": "file",
    "mode": "0644",
    "uid": 0,
    "gid": 0,
    "mtime": "1970-01-01T00:00:00.000000000Z",
    "xattrs": {},
}


def file_value(data: bytes) -> dict[str, object]:
    return FILE_OF_1970 | {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture
async def images(world: World) -> tuple[UUID, UUID]:
    base = {"/etc/motd": b"hello\nworld\n", "/etc/same": b"s", "/caf\udce9": b"1"}
    one = await world.image(tag="base:1", layers=[world.layers.put_files(base)])
    changed = {"/etc/motd": b"hello\nthere\n", "/caf\udce9": b"22", "/new": b"n"}
    return one, await world.ran(one, "edit", changed)


async def test_a_diff_has_all_its_keys(api: Api, images: tuple[UUID, UUID]) -> None:
    one, other = images
    answer = await api.get(f"/v1/images/{one}/diff/{other}")
    assert answer.status == 200
    assert await answer.json() == {
        "from": str(one),
        "to": str(other),
        "base": str(one),
        "summary": {
            "added": 1,
            "removed": 0,
            "modified": 2,
            "renamed": 0,
            "metadata": 0,
            "type": 0,
            "bytes_before": 13,
            "bytes_after": 15,
        },
        "changes": [
            {
                "path": "/caf\ufffd",
                "path_base64": b64encode(b"/caf\xe9").decode(),
                "change": "modified",
                "before": file_value(b"1"),
                "after": file_value(b"22"),
                "content_changed": True,
            },
            {
                "path": "/etc/motd",
                "change": "modified",
                "before": file_value(b"hello\nworld\n"),
                "after": file_value(b"hello\nthere\n"),
                "content_changed": True,
            },
            {
                "path": "/new",
                "change": "added",
                "before": None,
                "after": file_value(b"n"),
                "content_changed": True,
            },
        ],
        "next": None,
    }


async def test_pages_together_are_the_whole(api: Api, images: tuple[UUID, UUID]) -> None:
    url = f"/v1/images/{images[0]}/diff/{images[1]}"
    whole = await (await api.get(url)).json()
    found, asked = [], {"limit": "1"}
    for _ in whole["changes"]:
        page = await (await api.get(url, params=asked)).json()
        assert page["summary"] == whole["summary"]
        found += page["changes"]
        asked["cursor"] = page["next"]
    assert (found, page["next"]) == (whole["changes"], None)


async def test_a_renamed_file_is_one_change_unless_renames_are_off(api: Api, world: World) -> None:
    images = [
        await world.image(layers=[world.layers.put_files(files)])
        for files in ({"/old": b"content", "/k": b"k"}, {"/a/new": b"content", "/k": b"k"})
    ]
    url = f"/v1/images/{images[0]}/diff/{images[1]}"
    body = await (await api.get(url)).json()
    assert body["base"] is None
    assert [(one["change"], one["path"]) for one in body["changes"]] == [
        ("added", "/a"),
        ("renamed", "/a/new"),
    ]
    assert body["changes"][1] == {
        "path": "/a/new",
        "change": "renamed",
        "from_path": "/old",
        "before": file_value(b"content"),
        "after": file_value(b"content"),
        "content_changed": False,
    }
    assert (body["summary"]["renamed"], body["summary"]["removed"]) == (1, 0)
    off = await (await api.get(f"{url}?renames=0")).json()
    assert [one["change"] for one in off["changes"]] == ["added", "added", "removed"]
    status = await (await api.get(f"{url}?format=name-status")).text()
    assert status == "R100\told\ta/new\n"


async def test_what_is_there_twice_is_not_called_renamed(api: Api, world: World) -> None:
    images = [
        await world.image(layers=[world.layers.put_files(files)])
        for files in ({"/x": b"content"}, {"/y": b"content", "/z": b"content"})
    ]
    body = await (await api.get(f"/v1/images/{images[0]}/diff/{images[1]}")).json()
    assert [one["change"] for one in body["changes"]] == ["removed", "added", "added"]


async def test_paths_narrow_the_diff_and_its_summary(api: Api, images: tuple[UUID, UUID]) -> None:
    url = f"/v1/images/{images[0]}/diff/{images[1]}?path=/etc&path=caf%E9"
    body = await (await api.get(URL(url, encoded=True))).json()
    assert [one["path"] for one in body["changes"]] == ["/caf\ufffd", "/etc/motd"]
    assert body["summary"]["added"] == 0


async def test_a_tag_names_an_image_too(api: Api, world: World, images: tuple[UUID, UUID]) -> None:
    answer = await api.get(f"/v1/images/tag:base:1/diff/{images[1]}")
    assert (await answer.json())["from"] == str(images[0])


async def test_ndjson_is_a_change_a_line_and_then_the_summary(
    api: Api, images: tuple[UUID, UUID]
) -> None:
    url = f"/v1/images/{images[0]}/diff/{images[1]}"
    whole = await (await api.get(url)).json()
    answer = await api.get(f"{url}?format=ndjson")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert lines == [*whole["changes"], {"summary": whole["summary"]}]


async def test_texts_are_as_git_has_them(api: Api, images: tuple[UUID, UUID]) -> None:
    url = f"/v1/images/{images[0]}/diff/{images[1]}"
    status = await (await api.get(f"{url}?format=name-status")).text()
    assert status == 'M\t"caf\\351"\nM\tetc/motd\nA\tnew\n'
    nul = await (await api.get(f"{url}?format=name-status&z=1")).read()
    assert nul == b"M\0caf\xe9\0M\0etc/motd\0A\0new\0"
    patch = await (await api.get(f"{url}?format=patch&path=/etc")).read()
    assert patch.startswith(b"diff --git a/etc/motd b/etc/motd\nindex ")
    assert patch.endswith(
        b" 100644\n--- a/etc/motd\n+++ b/etc/motd\n@@ -1,2 +1,2 @@\n hello\n-world\n+there\n"
    )
    stat = await (await api.get(f"{url}?format=stat")).text()
    assert stat.splitlines() == [
        "1 added, 0 removed, 2 modified, 0 renamed, 0 type, 0 metadata; 13 bytes became 15",
        f"{1:>7}  {'~1':<24}  " + '"/caf\\351"',
        f"{1:>7}  {'~1':<24}  /etc/motd",
        f"{1:>7}  {'+1':<24}  /new",
    ]


async def test_equal_images_have_empty_diffs(api: Api, images: tuple[UUID, UUID]) -> None:
    url = f"/v1/images/{images[0]}/diff/{images[0]}"
    assert (await (await api.get(url)).json())["changes"] == []
    for form in ("name-status", "patch"):
        answer = await api.get(f"{url}?format={form}")
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=xml", "format"),
        ("limit=0", "limit"),
        ("cursor=!", "cursor"),
        ("cursor=abc", "cursor"),
        ("path=../x", "path"),
        ("path=", "path"),
    ],
)
async def test_a_wrong_parameter_is_named(
    api: Api, images: tuple[UUID, UUID], query: str, field: str
) -> None:
    answer = await api.get(f"/v1/images/{images[0]}/diff/{images[1]}?{query}")
    assert (answer.status, (await answer.json())["field"]) == (400, field)


async def test_a_wrong_reference_is_named(api: Api, images: tuple[UUID, UUID]) -> None:
    answer = await api.get(f"/v1/images/{images[0]}/diff/latest")
    assert (answer.status, (await answer.json())["field"]) == (400, "other_image")


async def test_unknown_and_foreign_images_are_not_found(
    api: Api, world: World, images: tuple[UUID, UUID]
) -> None:
    foreign = await world.image(tag="theirs", project="beta")
    for reference in (UNKNOWN, foreign, "tag:theirs"):
        assert (await api.get(f"/v1/images/{images[0]}/diff/{reference}")).status == 404
        assert (await api.get(f"/v1/images/{reference}/diff/{images[0]}")).status == 404


async def test_erased_content_is_gone(api: Api, world: World, images: tuple[UUID, UUID]) -> None:
    await world.erase()
    assert (await api.get(f"/v1/images/{images[0]}/diff/{images[1]}")).status == 410


async def test_a_layer_that_is_not_there_is_an_answer_in_every_form(
    api: Api, world: World, images: tuple[UUID, UUID]
) -> None:
    missing = await world.image(layers=["sha256:gone"])
    for form in ("json", "ndjson", "stat", "name-status", "patch"):
        url = f"/v1/images/{images[0]}/diff/{missing}?format={form}"
        assert (await api.get(url)).status == 404


async def test_the_permission_to_list_is_needed(
    api: Api, world: World, images: tuple[UUID, UUID]
) -> None:
    secret = await world.token(permissions=[Permission.SPAWN])
    url = f"/v1/images/{images[0]}/diff/{images[1]}"
    assert (await api.get(url, headers=bearer(secret))).status == 403
