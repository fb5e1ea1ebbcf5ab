"""Logs of images through the app on fakes: entries, paths, renames, pages, refusals."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from contree.domain.image import Image
from tests.unit.http.world import Api, World

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"


@pytest.fixture
async def line(world: World) -> list[UUID]:
    base = {"/etc/motd": b"hello\n", "/a": b"old name\n"}
    images = [await world.image(tag="base:1", layers=[world.layers.put_files(base)])]
    images.append(await world.ran(images[-1], "edit", {"/etc/motd": b"there\n"}))
    images.append(await world.ran(images[-1], "move", {"/b": b"old name\n"}, gone=("/a",)))
    images.append(await world.ran(images[-1], "nothing", {}))
    images.append(await world.ran(images[-1], "grow", {"/b": b"old name\nmore\n"}))
    return images


async def entries(api: Api, image: UUID, query: str = "") -> list[dict[str, Any]]:
    answer = await api.get(f"/v1/images/{image}/log{query}")
    assert answer.status == 200, await answer.text()
    return list((await answer.json())["entries"])


async def test_the_log_goes_down_to_the_import(api: Api, world: World, line: list[UUID]) -> None:
    found = await entries(api, line[-1])
    assert [one["image"] for one in found] == [str(image) for image in reversed(line)]
    assert [one["command"] for one in found] == ["grow", "nothing", "move", "edit", None]
    assert [one["tags"] for one in found] == [[], [], [], [], ["base:1"]]
    edit = found[3]
    made = await world.log.load(Image, line[1])
    assert made is not None
    assert edit == {
        "image": str(line[1]),
        "parents": [str(line[0])],
        "operation": str(made.operation_id),
        "kind": "instance",
        "at": edit["at"],
        "actor": "test",
        "command": "edit",
        "args": [],
        "shell": False,
        "registry_url": None,
        "exit_code": 3,
        "tags": [],
        "changed": {
            "added": 0,
            "removed": 0,
            "modified": 1,
            "renamed": 0,
            "metadata": 0,
            "type": 0,
            "bytes_before": 6,
            "bytes_after": 6,
        },
        "changes": [],
    }
    assert (found[4]["parents"], found[4]["changed"]) == ([], None)


async def test_paths_find_what_changed_them(api: Api, line: list[UUID]) -> None:
    found = await entries(api, line[-1], "?path=/etc")
    assert [one["command"] for one in found] == ["edit", None]
    assert [(c["change"], c["path"]) for c in found[0]["changes"]] == [("modified", "/etc/motd")]
    several = await entries(api, line[-1], "?path=/etc/motd&path=/a")
    assert [one["command"] for one in several] == ["move", "edit", None]
    assert await entries(api, line[-1], "?path=/none") == []


async def test_a_renamed_file_is_followed_when_asked(api: Api, line: list[UUID]) -> None:
    plain = await entries(api, line[-1], "?path=/b")
    assert [one["command"] for one in plain] == ["grow", "move"]
    assert plain[1]["changes"][0]["change"] == "added"
    followed = await entries(api, line[-1], "?path=/b&follow=1")
    assert [one["command"] for one in followed] == ["grow", "move", None]
    (moved,) = followed[1]["changes"]
    assert (moved["change"], moved["from_path"], moved["path"]) == ("renamed", "/a", "/b")
    assert [change["path"] for change in followed[2]["changes"]] == ["/a"]


@pytest.mark.parametrize("query", ["", "path=/b&follow=1&", "path=/etc&path=/a&"])
async def test_pages_together_are_the_whole(api: Api, line: list[UUID], query: str) -> None:
    whole = await entries(api, line[-1], f"?{query}")
    found: list[dict[str, Any]] = []
    url = f"/v1/images/{line[-1]}/log?{query}limit=1"
    body: dict[str, Any] = {"next": ""}
    for _ in range(len(line) + 1):
        more = f"&cursor={body['next']}" if body["next"] else ""
        body = await (await api.get(url + more)).json()
        found += body["entries"]
        if body["next"] is None:
            break
    assert found == whole


async def test_a_tag_names_the_image(api: Api, line: list[UUID]) -> None:
    body = await (await api.get("/v1/images/tag:base:1/log")).json()
    assert [one["image"] for one in body["entries"]] == [str(line[0])]


async def test_refusals(api: Api, world: World, line: list[UUID]) -> None:
    foreign = await world.image(project="beta")
    for image in (UNKNOWN, foreign):
        assert (await api.get(f"/v1/images/{image}/log")).status == 404
    for query, field in (("cursor=abc", "cursor"), ("cursor=YWJj", "cursor"), ("limit=0", "limit")):
        answer = await api.get(f"/v1/images/{line[0]}/log?{query}")
        assert (answer.status, (await answer.json())["field"]) == (400, field)
    await world.erase()
    assert (await api.get(f"/v1/images/{line[0]}/log")).status == 410
