"""Our answers, over a live app on fakes, through the parsers of the published SDK and client."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from contree_client import models
from contree_sdk._internals.lib.helpers import convert_data_to_type
from contree_sdk._internals.models.file import FileItemModel
from contree_sdk._internals.models.image import ContreeImageModel
from contree_sdk._internals.models.image_import import ImageImportRequest
from contree_sdk._internals.models.instance import InstanceOperationMetadata
from contree_sdk._internals.models.operation import OperationModel
from contree_sdk.utils.models.auth import WhoAmI
from contree_sdk.utils.models.file import UploadedFile

from contree.app.images.layer_store import EntryType
from contree.app.journal import JournalEntry
from tests.unit.http.world import Api, World

STATES = ("PENDING", "ASSIGNED", "EXECUTING", "SUCCESS", "FAILED", "CANCELLED")


async def bring_to(world: World, api: Api, operation_id: UUID, state: str) -> None:
    """Bring a pending operation to `state`, with results where it can have some."""
    is_run = (await world.operation(operation_id)).spec is not None
    outcome = await world.outcome(stdout=b"o", stderr=b"\xff") if is_run else None
    if state == "ASSIGNED":
        operation = await world.operation(operation_id)
        operation.assign(world.context(), worker="w", lease_until=world.clock.now())
        await world.log.append(operation)
    elif state == "EXECUTING":
        await world.begin(operation_id)
    elif state == "SUCCESS":
        image_id = await world.image()
        tag = None if is_run else "t"
        await world.succeed(operation_id, outcome, image_id=image_id, tag=tag)
    elif state == "FAILED":
        operation = await world.begin(operation_id)
        operation.fail(world.context(), error="broken", outcome=outcome)
        await world.log.append(operation)
    elif state == "CANCELLED":
        assert (await api.delete(f"/v1/operations/{operation_id}")).status == 202


async def get(api: Api, path: str) -> Any:
    response = await api.get(path)
    assert response.status == 200, await response.text()
    return await response.json()


@pytest.mark.parametrize("state", STATES)
async def test_a_run_is_read_by_both_in_every_state(api: Api, world: World, state: str) -> None:
    body = {"command": "c", "image": str(await world.image()), "env": {"A": "b"}}
    answer = await (await api.post("/v1/instances", json=body)).json()
    spawned = models.InstanceSpawnResponse.from_dict(answer)
    await bring_to(world, api, UUID(answer["uuid"]), state)
    value = await get(api, f"/v1/operations/{spawned.uuid}")

    theirs = convert_data_to_type(value, OperationModel)
    assert theirs.status.value == state
    assert isinstance(theirs.metadata, InstanceOperationMetadata)
    assert (theirs.metadata.result is not None) == (state in {"SUCCESS", "FAILED"})
    assert (theirs.result is not None) == (state == "SUCCESS")

    read = models.OperationResponse.from_dict(value)
    assert isinstance(read.status, models.OperationStatus)
    assert isinstance(read.metadata, models.OperationInstanceMetadata)
    if state == "SUCCESS":
        assert isinstance(read.result, models.OperationResult)
        assert read.result.image == read.result_image_uuid
        assert isinstance(read.metadata.result, models.InstanceResult)
    (summary,) = await get(api, "/v1/operations")
    assert models.OperationSummary.from_dict(summary).uuid == spawned.uuid


@pytest.mark.parametrize("credentials", [None, {"username": "me", "password": "p"}])
@pytest.mark.parametrize("state", STATES)
async def test_an_import_is_read_by_both_in_every_state(
    api: Api, world: World, state: str, credentials: dict[str, str] | None
) -> None:
    registry: dict[str, Any] = {"url": "docker://registry.example/a"}
    if credentials is not None:
        registry["credentials"] = credentials
    response = await api.post("/v1/images/import", json={"registry": registry, "tag": "t"})
    uuid = (await response.json())["uuid"]
    await bring_to(world, api, UUID(uuid), state)
    value = await get(api, f"/v1/operations/{uuid}")

    theirs = convert_data_to_type(value, OperationModel)
    assert theirs.status.value == state
    assert isinstance(theirs.metadata, ImageImportRequest)
    assert hasattr(theirs.metadata.registry, "credentials") == (credentials is not None)
    if state == "SUCCESS":
        assert theirs.result is not None
        assert theirs.result.tag == "t"

    read = models.OperationResponse.from_dict(value)
    assert isinstance(read.metadata, models.ImageImportMetadata)
    (summary,) = await get(api, "/v1/operations")
    assert models.OperationSummary.from_dict(summary).status == models.OperationStatus(state)


async def test_images_files_listings_and_the_token_are_read_by_both(api: Api, world: World) -> None:
    image_id = await world.image(tag="t")
    await world.image()
    images = (await get(api, "/v1/images"))["images"]
    assert [m.tag for m in convert_data_to_type(images, list[ContreeImageModel])] == [None, "t"]
    read = models.ImageListResponse.from_dict({"images": images})
    assert isinstance(read.images, list)
    assert len(read.images) == 2

    answer = await (await api.post("/v1/files", data=b"x")).json()
    assert models.FileResponse.from_dict(answer).size == 1
    value = await get(api, f"/v1/files/{answer['sha256']}")
    assert models.File.from_dict(value).created_at.tzinfo is not None
    assert convert_data_to_type(value, UploadedFile).uuid == answer["uuid"]
    files = models.FilesListResponse.from_dict(await get(api, "/v1/files")).files
    assert isinstance(files, list)
    assert len(files) == 1

    world.files.add("/d", EntryType.DIRECTORY)
    listing = await get(api, f"/v1/inspect/{image_id}/list?path=/")
    (item,) = convert_data_to_type(listing["files"], list[FileItemModel])
    assert item.is_dir
    assert models.DirectoryList.from_dict(listing).files[0].path == "d"

    whoami = await get(api, "/v1/whoami")
    assert convert_data_to_type(whoami, WhoAmI).token_expiration is None
    assert models.WhoAmIResponse.from_dict(whoami).permissions["list"] is True


async def test_events_are_read_by_the_client(api: Api, world: World) -> None:
    body = {"command": "c", "image": str(await world.image())}
    uuid = (await (await api.post("/v1/instances", json=body)).json())["uuid"]
    data = {"value": "hi", "encoding": "ascii", "truncated": False}
    entry = JournalEntry(at=world.clock.now(), type="stdout", spid=1, data=data)
    await world.journal.append(UUID(uuid), [entry])
    await bring_to(world, api, UUID(uuid), "SUCCESS")
    text = await (await api.get(f"/v1/operations/{uuid}/events")).text()
    payloads = [line.removeprefix("data: ") for line in text.splitlines() if "data: " in line]
    first, last = [models.OperationEvent.from_dict(json.loads(p)) for p in payloads]
    assert isinstance(first.data, models.EventDataStream)
    assert (first.spid, first.data.value) == (1, "hi")
    assert isinstance(last.data, models.EventDataCompletion)
    assert last.spid is ...
    assert last.data.result_image_uuid is not None


async def test_errors_are_read_by_the_client(api: Api) -> None:
    for path in ("/v1/nowhere", "/v1/images?limit=0", "/v1/operations/x"):
        response = await api.get(path)
        error = models.Error.from_dict(await response.json())
        assert (error.status, bool(error.error)) == (response.status, True)
