"""Blame through the app on fakes: lines, renames, directories, refusals."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from contree.app.images.git_patch import TEXT_BYTES_MAX
from contree.domain.image import Image
from tests.unit.http.world import Api, World

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"


async def blamed(api: Api, image: UUID, path: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/images/{image}/blame", params={"path": path})
    assert answer.status == 200, await answer.text()
    return dict(await answer.json())


def lines(body: dict[str, Any]) -> list[tuple[int, int, str, str]]:
    return [(one["line"], one["count"], one["image"], one["text"]) for one in body["lines"]]


@pytest.fixture
async def line(world: World) -> list[UUID]:
    base = {"/etc/conf": b"a\nb\nc\nd\n", "/etc/same": b"s", "/x/y/z": b"1", "/bin": b"\0"}
    images = [await world.image(layers=[world.layers.put_files(base)])]
    images.append(await world.ran(images[-1], "b", {"/etc/conf": b"a\nB\nc\nd\n"}))
    images.append(await world.ran(images[-1], "none", {"/x/other": b"2"}))
    moved = {"/etc/moved": b"a\nB\nc\nd\n"}
    images.append(await world.ran(images[-1], "move", moved, gone=("/etc/conf",)))
    images.append(await world.ran(images[-1], "ends", {"/etc/moved": b"0\na\nB\nc\nd\ne"}))
    return images


async def test_each_line_has_the_run_that_wrote_it(
    api: Api, world: World, line: list[UUID]
) -> None:
    body = await blamed(api, line[-1], "/etc/moved")
    imported, edited, _, _, grown = map(str, line)
    assert body["path"] == "/etc/moved"
    assert lines(body) == [
        (1, 1, grown, "0"),
        (2, 1, imported, "a"),
        (3, 1, edited, "B"),
        (4, 2, imported, "c\nd"),
        (6, 1, grown, "e"),
    ]
    made = await world.log.load(Image, line[1])
    assert made is not None
    assert body["lines"][2]["operation"] == str(made.operation_id)


async def test_an_older_image_has_its_own_answer(api: Api, line: list[UUID]) -> None:
    assert lines(await blamed(api, line[0], "/etc/conf")) == [(1, 4, str(line[0]), "a\nb\nc\nd")]


async def test_a_file_that_was_written_anew_is_of_its_run(
    api: Api, world: World, line: list[UUID]
) -> None:
    gone = await world.ran(line[0], "rm", {}, gone=("/etc/conf",))
    again = await world.ran(gone, "write", {"/etc/conf": b"a\nb\nc\nd\n"})
    assert lines(await blamed(api, again, "etc/conf")) == [(1, 4, str(again), "a\nb\nc\nd")]


async def test_an_empty_file_has_no_lines(api: Api, world: World, line: list[UUID]) -> None:
    image = await world.ran(line[0], "touch", {"/empty": b""})
    assert await blamed(api, image, "/empty") == {"path": "/empty", "lines": []}


async def test_each_entry_of_a_directory_has_the_run_that_changed_it_last(
    api: Api, line: list[UUID]
) -> None:
    imported, _, other, moved, grown = map(str, line)
    root = await blamed(api, line[-1], "/")
    assert [(one["path"], one["image"]) for one in root["children"]] == [
        ("/bin", imported),
        ("/etc", grown),
        ("/x", other),
    ]
    etc = await blamed(api, line[-2], "/etc")
    assert [(one["path"], one["image"]) for one in etc["children"]] == [
        ("/etc/moved", moved),
        ("/etc/same", imported),
    ]
    x = await blamed(api, line[-1], "/x")
    assert [(one["path"], one["image"]) for one in x["children"]] == [
        ("/x/other", other),
        ("/x/y", imported),
    ]


async def test_refusals(api: Api, world: World, line: list[UUID]) -> None:
    url = f"/v1/images/{line[-1]}/blame"
    large = await world.ran(line[0], "large", {"/large": b"x" * (TEXT_BYTES_MAX + 1)})
    assert (await api.get(f"{url}?path=/bin")).status == 422
    assert (await api.get(f"/v1/images/{large}/blame?path=/large")).status == 422
    assert (await api.get(f"{url}?path=/none")).status == 404
    assert (await api.get(f"/v1/images/{UNKNOWN}/blame?path=/")).status == 404
    answer = await api.get(url)
    assert (answer.status, (await answer.json())["field"]) == (400, "path")
    await world.erase()
    assert (await api.get(f"{url}?path=/")).status == 410
