"""The published contree-client on each of its transports, with real guests and a real registry."""

from __future__ import annotations

import importlib
import io
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from contree_client import models
from contree_client.exceptions import ConflictError, NotFoundError, PermissionDeniedError
from contree_client.http import ContreeClient

from tests.support.server import RunningServer

TRANSPORTS = ("http", "urllib3", "requests", "httpx")
ASYNC_TRANSPORTS = ("httpx", "aiohttp")
WAIT_S = 300
POST_OK = {"SUCCESS"}


def client_class(transport: str, name: str) -> Any:
    return getattr(importlib.import_module(f"contree_client.{transport}"), name)


@pytest.fixture
def client(server: RunningServer, token: str) -> Iterator[ContreeClient]:
    """The transport that needs nothing but the standard library."""
    with ContreeClient(token, base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture(params=TRANSPORTS)
def any_client(request: pytest.FixtureRequest, server: RunningServer, token: str) -> Iterator[Any]:
    with client_class(request.param, "ContreeClient")(token, base_url=server.url) as opened:
        yield opened


@pytest.fixture(params=ASYNC_TRANSPORTS)
async def any_async_client(
    request: pytest.FixtureRequest, server: RunningServer, token: str
) -> AsyncIterator[Any]:
    made = client_class(request.param, "ContreeAsyncClient")(token, base_url=server.url)
    async with made as opened:
        yield opened


def names_of(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_every_transport_goes_the_whole_way(any_client: Any, busybox_url: str) -> None:
    client = any_client
    assert client.whoami().permissions["spawn"] is True
    registry = models.ImageImportRegistry(url=busybox_url)
    imported = client.wait_operation(
        client.import_image(registry, tag="cc/busybox"), timeout=WAIT_S
    )
    assert imported.status == models.OperationStatus.SUCCESS
    image = client.resolve_image("cc/busybox")
    assert image == imported.result_image_uuid == client.resolve_image("tag:cc/busybox")

    file = client.ensure_file(io.BytesIO(b"uploaded through the client"))
    assert client.check_file_exists(file.sha256)
    assert client.ensure_file(b"uploaded through the client").uuid == file.uuid
    assert client.upload_file(io.BytesIO(b"")).size == 0

    spawned = client.spawn_instance(
        command="cat /in; cat; echo >&2 err; mkdir /out && cp /in /out/copy; exit 5",
        image="tag:cc/busybox",
        shell=True,
        stdin=models.ClosableStreamRepr(value=" then stdin"),
        files={"/in": models.FileSpec(uuid=file.uuid, mode="0640")},
    )
    ended = client.wait_operation(spawned.uuid, timeout=WAIT_S)
    assert ended.status == models.OperationStatus.SUCCESS
    result = ended.metadata.result
    assert (result.state.exit_code, result.stdout.value) == (
        5,
        "uploaded through the client then stdin",
    )
    assert result.stderr.value == "err\n"
    assert ended.result.image == ended.result_image_uuid != image

    made = ended.result_image_uuid
    assert client.inspect_image_download(made, "/out/copy") == b"uploaded through the client"
    assert b"".join(client.inspect_image_download_stream(made, "/in")).startswith(b"uploaded")
    assert [f.path for f in client.inspect_image_list(made, "/out").files] == ["copy"]
    assert names_of(b"".join(client.inspect_image_archive(made, "/out"))) == ["out", "out/copy"]
    assert client.check_image_file(made, "/in")
    assert not client.check_image_file(made, "/nowhere")
    assert client.check_image_archive(made, "/out")


async def test_every_async_transport_goes_the_whole_way(
    any_async_client: Any, busybox_url: str
) -> None:
    client = any_async_client
    operation = await client.import_image(models.ImageImportRegistry(url=busybox_url))
    imported = await client.wait_operation(operation, timeout=WAIT_S)
    file = await client.upload_file(io.BytesIO(b"x" * 300_000))
    spawned = await client.spawn_instance(
        command="wc",
        args=["-c", "/in"],
        image=imported.result_image_uuid,
        files={"/in": models.FileSpec(uuid=file.uuid)},
    )
    seen = [event.type async for event in client.follow_operation_events(spawned.uuid)]
    assert seen[0] == "init"
    assert seen[-1] == "completion"
    ended = await client.get_operation_status(spawned.uuid)
    assert ended.metadata.result.stdout.value == "300000 /in\n"
    data = await client.inspect_image_download(ended.result_image_uuid, "/in")
    assert data == b"x" * 300_000


def spawn(client: Any, image: str, command: str, **fields: Any) -> str:
    uuid: str = client.spawn_instance(command=command, image=image, shell=True, **fields).uuid
    return uuid


def wait_for_status(client: Any, uuid: str, *wanted: str) -> str:
    deadline = time.monotonic() + WAIT_S
    while (status := client.get_operation_status(uuid).status.value) not in wanted:
        assert time.monotonic() < deadline, f"still {status}"
        time.sleep(0.05)
    return str(status)


def test_a_follower_sees_output_as_it_comes_and_the_end_last(
    client: ContreeClient, busybox: str
) -> None:
    held = models.ClosableStreamRepr(value="", close=False)
    command = "echo first; read held; echo second"
    uuid = spawn(client, busybox, command, disposable=True, stdin=held)
    seen: list[Any] = []
    status_at_first = ""
    for event in client.follow_operation_events(uuid):
        seen.append(event)
        if event.type == "stdout" and not status_at_first:
            status_at_first = client.get_operation_status(uuid).status.value
            inflight = client.get_operation_status(uuid, inflight=True)
            assert inflight.metadata.result.stdout.value == "first\n"
            client.operation_subprocess_stdin(uuid, 1, "")
    assert status_at_first == "EXECUTING"
    types = [event.type for event in seen]
    assert (types[0], types[-1]) == ("init", "completion")
    assert "".join(e.data.value for e in seen if e.type == "stdout") == "first\nsecond\n"
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    (exited,) = [event for event in seen if event.type == "exit"]
    assert (exited.spid, exited.data.code, exited.data.signal) == (1, 0, -1)
    assert seen[-1].data.status == "SUCCESS"

    again = list(client.iter_operation_events(uuid))
    assert [event.id for event in again] == [event.id for event in seen]
    tail = list(client.iter_operation_events(uuid, last_event_id=seen[2].id))
    assert [event.id for event in tail] == [event.id for event in seen[3:]]
    main = list(client.iter_operation_events(uuid, spid=1))
    assert {event.spid for event in main} == {1}


def test_operations_are_cancelled_waiting_and_running(
    server: RunningServer, client: ContreeClient, busybox: str
) -> None:
    sleepers = [spawn(client, busybox, "echo up; sleep 600") for _ in range(6)]
    for uuid in sleepers[:2]:
        assert wait_for_status(client, uuid, "EXECUTING") == "EXECUTING"
    assert client.get_operation_status(sleepers[-1]).status.value == "PENDING"
    assert server.qemus()
    for uuid in reversed(sleepers):
        client.cancel_operation(uuid)
    for uuid in sleepers:
        ended = client.wait_operation(uuid, timeout=WAIT_S)
        assert ended.status == models.OperationStatus.CANCELLED
        assert ended.error == "cancelled by request"
        assert ended.result_image_uuid is None
        last = list(client.iter_operation_events(uuid))[-1]
        assert (last.type, last.data.status) == ("completion", "CANCELLED")
        with pytest.raises(ConflictError):
            client.cancel_operation(uuid)
    deadline = time.monotonic() + WAIT_S
    while server.qemus():
        assert time.monotonic() < deadline, "a cancelled guest lives on"
        time.sleep(0.05)


def test_lists_tags_and_errors(
    server: RunningServer, client: ContreeClient, busybox: str, project: str
) -> None:
    kinds = {operation.kind for operation in client.list_operations(limit=1000)}
    assert "image_import" in kinds
    ended = client.list_operations(status="SUCCESS", kind="image_import", since="1h")
    assert {operation.status.value for operation in ended} == POST_OK
    assert client.list_operations(until="1h") == []
    assert len(client.list_operations(limit=1)) == 1

    assert client.update_image_tag(busybox, "cc/moving:1").tag == "cc/moving:1"
    assert [image.uuid for image in client.list_images(tag="cc/mov").images] == [busybox]
    assert client.inspect_image(busybox).uuid == busybox
    client.delete_image_tag(busybox, tag="cc/moving:1")
    client.delete_image_tag(busybox, tag="cc/moving:1")
    with pytest.raises(NotFoundError):
        client.resolve_image("cc/moving:1")
    with pytest.raises(NotFoundError):
        client.get_operation_status("00000000-0000-0000-0000-000000000000")
    with pytest.raises(NotFoundError):
        client.inspect_image_list(busybox, "/nowhere")

    reader = ContreeClient(server.token(project, permissions="list"), base_url=server.url)
    with reader, pytest.raises(PermissionDeniedError):
        spawn(reader, busybox, "true")
    stranger = ContreeClient(server.token("somebody-else"), base_url=server.url)
    with stranger, pytest.raises(NotFoundError):
        stranger.inspect_image(busybox)
