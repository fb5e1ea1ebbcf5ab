"""What contree-client can do beyond the common path, the same on each of its transports."""

from __future__ import annotations

import gzip
import importlib
import inspect
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from contree_client import models
from contree_client.exceptions import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    UnprocessableEntityError,
)
from contree_client.http import ContreeClient
from contree_client.runtime import RetryPolicy

from tests.acceptance.api import Api
from tests.support.server import RunningServer

TRANSPORTS = (
    *((name, "ContreeClient") for name in ("http", "urllib3", "requests", "httpx")),
    *((name, "ContreeAsyncClient") for name in ("httpx", "aiohttp")),
)
WAIT_S = 300.0
OPEN = models.ClosableStreamRepr(value="", close=False)


def name_of(transport: tuple[str, str]) -> str:
    return "-".join(transport)


@pytest.fixture(params=TRANSPORTS, ids=name_of)
async def client(
    request: pytest.FixtureRequest, server: RunningServer, token: str
) -> AsyncIterator[Any]:
    module, name = request.param
    made = getattr(importlib.import_module(f"contree_client.{module}"), name)(
        token, base_url=server.url, timeout=60, retry=RetryPolicy(max_attempts=5)
    )
    async with AsyncExitStack() as stack:
        if hasattr(made, "__aenter__"):
            yield await stack.enter_async_context(made)
        else:
            yield stack.enter_context(made)


async def got(value: Any) -> Any:
    """What a method returns, be its client synchronous or not."""
    return await value if inspect.isawaitable(value) else value


async def each(values: Any) -> AsyncIterator[Any]:
    """What a method yields, be its client synchronous or not."""
    if hasattr(values, "__aiter__"):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


async def all_of(values: Any) -> list[Any]:
    return [value async for value in each(values)]


@pytest.fixture(scope="module")
def made(api: Api, busybox: str) -> str:
    """An image with a small tree below /made."""
    script = (
        "mkdir -p /made/sub; yes some line | head -n 2000 >/made/long; "
        "printf 'one\\ntwo\\nTHREE\\ntwo\\n' >/made/sub/text; ln -s sub/text /made/link"
    )
    return api.run(busybox, script).want_exit().image


class Unseekable(io.RawIOBase):
    """A stream that can be read once, as a pipe."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


async def test_files_go_up_in_every_form(client: Any, api: Api) -> None:
    label = f"{type(client).__module__}.{type(client).__name__}".encode()
    forms = {
        "bytes": lambda data: data,
        "file": io.BytesIO,
        "pipe": lambda data: io.BufferedReader(Unseekable(data)),
    }
    for form, wrap in forms.items():
        content = label + form.encode() * 50_000
        stored = await got(client.upload_file(wrap(content)))
        assert stored.size == len(content), form
        assert (await got(client.ensure_file(wrap(content)))).uuid == stored.uuid
        assert (await got(client.get_file(stored.sha256.upper()))).uuid == stored.uuid
        assert (await got(client.upload_file(wrap(b"")))).size == 0, form
    assert not await got(client.check_file_exists("0" * 64))
    newest = await got(client.list_files(limit=2, since="15m"))
    assert len(newest.files) == 2
    listed = await all_of(client.iter_files(page_size=2, limit=5))
    assert len({file.uuid for file in listed}) == len(listed) >= 4


async def test_archives_come_packed_and_unpacked(client: Any, made: str) -> None:
    names = ["made", "made/link", "made/long", "made/sub", "made/sub/text"]
    packed = b"".join(await all_of(client.inspect_image_archive(made, "/made", compressed=True)))
    plain = b"".join(await all_of(client.inspect_image_archive(made, "/made")))
    assert gzip.decompress(packed) == plain
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert sorted(tar.getnames()) == names
    chunks = await all_of(client.inspect_image_download_stream(made, "/made/long"))
    assert (
        b"".join(chunks)
        == b"some line\n" * 2000
        == await got(client.inspect_image_download(made, "/made/long"))
    )
    assert await got(client.check_image_archive(made, "/made/long"))
    assert not await got(client.check_image_archive(made, "/none"))
    with pytest.raises(UnprocessableEntityError):
        await got(client.inspect_image_download(made, "/made"))
    with pytest.raises(NotFoundError):
        await all_of(client.inspect_image_archive(made, "/none"))


async def test_images_are_searched_and_listed_in_pages(client: Any, made: str) -> None:
    found = await got(
        client.inspect_image_grep(
            made,
            ["^two", "three"],
            path=["/made/sub", "/etc"],
            glob=["*", "!passwd"],
            case="insensitive",
            before=1,
            max_count=2,
            max_total=10,
        )
    )
    rows = [(row.type, row.line_number, row.line_text) for row in found.matches]
    assert rows == [("context", 1, "one\n"), ("match", 2, "two\n"), ("match", 3, "THREE\n")]
    assert [(hit.text, hit.start, hit.end) for hit in found.matches[2].submatches] == [
        ("THREE", 0, 5)
    ]
    assert (found.patterns, found.path) == (["^two", "three"], "/made/sub")
    with pytest.raises(BadRequestError):
        await got(client.inspect_image_grep(made, "("))
    images = await all_of(client.iter_images(page_size=1, since="1h"))
    assert made in {image.uuid for image in images}
    assert len(images) >= 2
    operations = await all_of(client.iter_operations(page_size=1, limit=2, kind="instance"))
    assert len(operations) <= 2


async def test_a_running_command_is_fed_watched_and_waited_for(client: Any, made: str) -> None:
    spawned = await got(
        client.spawn_instance(
            "while read line; do echo [$line]; done; echo over",
            made,
            shell=True,
            disposable=True,
            stdin=OPEN,
        )
    )
    uuid, words, seen = spawned.uuid, ["alpha", "beta"], []
    with pytest.raises(TimeoutError):
        await got(client.wait_operation(uuid, timeout=0.2))
    async for event in each(client.follow_operation_events(uuid, timeout=WAIT_S)):
        seen.append(event)
        if event.type == "spawn" and event.spid == 1:
            beside = await got(
                client.operation_subprocess_create(uuid, "cat", args=["-"], stdin=OPEN)
            )
            await got(client.operation_subprocess_stdin(uuid, beside, "to cat", close=True))
        if event.type in {"spawn", "stdout"} and event.spid == 1:
            more = f"{words.pop(0)}\n" if words else ""
            ended = "over" in getattr(event.data, "value", "")
            if not ended:
                await got(client.operation_subprocess_stdin(uuid, 1, more, close=not more))
    assert seen[-1].data.status == "SUCCESS"
    output = "".join(e.data.value for e in seen if e.type == "stdout" and e.spid == 1)
    assert output == "[alpha]\n[beta]\nover\n"
    result = await got(client.operation_subprocess(uuid, beside))
    assert (result.stdout.value, result.state.exit_code) == ("to cat", 0)

    for follow in (True, False, None):
        ended = await got(client.wait_operation(uuid, timeout=WAIT_S, follow_events=follow))
        assert ended.metadata.result.stdout.value == output
    half = seen[len(seen) // 2].id
    again = await all_of(client.iter_operation_events(uuid, since=half))
    assert [event.id for event in again] == [event.id for event in seen if event.id > half]
    mine = await all_of(client.iter_operation_events(uuid, spid=beside))
    assert {event.spid for event in mine} == {beside}


def test_a_profile_names_server_token_and_project(
    server: RunningServer, token: str, project: str, tmp_path: Path, busybox: str
) -> None:
    config = tmp_path / "auth.ini"
    config.write_text(
        f"[DEFAULT]\nprofile = mine\n[profile:mine]\nurl = {server.url}\ntype = iam\n"
        f"token = {token}\nproject = {project}\n"
    )
    with ContreeClient.from_profile(config_path=config) as client:
        assert client.resolve_image("busybox:latest") == busybox
    stranger = ContreeClient(token, base_url=server.url, project="another")
    with stranger, pytest.raises(AuthenticationError):
        stranger.whoami()
