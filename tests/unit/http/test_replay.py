"""`/operations/{uuid}/replay` through the app on fakes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from contree.domain.operation import InstanceRequested, Operation
from contree.domain.token import Permission
from tests.unit.http.world import Api, World

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"


async def ended(api: Api, world: World, *, stdout: bytes, **fields: Any) -> str:
    """Return a run that has ended with this output."""
    body = {"command": "echo", "image": str(await world.image()), "disposable": True, **fields}
    response = await api.post("/v1/instances", json=body)
    uuid: str = (await response.json())["uuid"]
    await end(world, uuid, stdout=stdout)
    return uuid


async def end(world: World, uuid: str, *, stdout: bytes) -> Operation:
    operation = await world.begin(UUID(uuid))
    outcome = await world.outcome(stdout=stdout)
    operation.succeed(world.context(), result_image_id=None, outcome=outcome)
    await world.log.append(operation)
    return operation


async def test_a_replay_is_an_operation_that_names_its_original(api: Api, world: World) -> None:
    original = await ended(api, world, stdout=b"one\ntwo\n")
    response = await api.post(f"/v1/operations/{original}/replay")
    assert response.status == 201, await response.text()
    replay = (await response.json())["uuid"]
    assert await response.json() == {"uuid": replay, "replay_of": original}
    assert response.headers["Location"] == f"/v1/operations/{replay}"
    shown = await (await api.get(f"/v1/operations/{replay}")).json()
    assert (shown["status"], shown["metadata"]["replay_of"]) == ("PENDING", original)
    requested = [e for e in world.log.events if isinstance(e, InstanceRequested)]
    assert requested[1].replay_of == UUID(original)
    assert requested[1].spec == requested[0].spec
    early = await api.get(f"/v1/operations/{replay}/replay")
    assert early.status == 409
    assert "when it has ended" in (await early.json())["error"]

    await end(world, replay, stdout=b"one\n2\n")
    report = await (await api.get(f"/v1/operations/{replay}/replay")).json()
    assert (report["original"], report["replay"]) == (original, replay)
    assert (report["verdict"], report["differs"]) == ("different", ["stdout"])
    assert report["stdout"]["first_difference"] == {
        "offset": 4,
        "line": 2,
        "original": "two",
        "replay": "2",
    }
    assert (report["stdout"]["causes"], report["stderr"]["equal"]) == (["unexplained"], True)
    assert report["end"]["original"] == report["end"]["replay"]
    assert report["filesystem"]["not_compared"]
    assert report["resources"]["replay"]["usage"]["max_rss_kb"] == 2048


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"env": {"A_TOKEN": 1}}', "env"),
        (b'{"env": {"A_TOKEN": "wrong"}}', "env.A_TOKEN"),
        (b'{"env": {"B": "x", "A_TOKEN": "right"}}', "env.B"),
        (b'{"env": {}}', "env"),
        (b"", "env"),
        (b"[]", ""),
        (b"{", "body"),
    ],
)
async def test_bad_secrets_are_refused_with_the_field(
    api: Api, world: World, body: bytes, field: str
) -> None:
    original = await ended(api, world, stdout=b"", env={"A_TOKEN": "right"})
    before = len(world.log.events)
    response = await api.post(f"/v1/operations/{original}/replay", data=body)
    assert response.status == 400
    assert (await response.json())["error"].startswith(field)
    assert len(world.log.events) == before


async def test_the_right_secret_is_sealed_beside_the_replay(api: Api, world: World) -> None:
    original = await ended(api, world, stdout=b"", env={"A_TOKEN": "right"})
    sent = {"env": {"A_TOKEN": "right"}}
    response = await api.post(f"/v1/operations/{original}/replay", json=sent)
    assert response.status == 201
    replay = UUID((await response.json())["uuid"])
    assert await world.log.sealed(replay) is not None


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_operation_that_is_not_there_is_not_found(api: Api, method: str) -> None:
    response = await api.request(method, f"/v1/operations/{UNKNOWN}/replay")
    assert response.status == 404


async def test_what_has_not_ended_is_no_original_and_what_is_no_replay_no_comparison(
    api: Api, world: World
) -> None:
    body = {"command": "echo", "image": str(await world.image())}
    waiting = (await (await api.post("/v1/instances", json=body)).json())["uuid"]
    assert (await api.post(f"/v1/operations/{waiting}/replay")).status == 409
    assert (await api.get(f"/v1/operations/{waiting}/replay")).status == 409


async def test_a_replay_needs_what_its_original_needed(api: Api, world: World) -> None:
    original = await ended(api, world, stdout=b"")
    token = await world.token(permissions=[Permission.LIST, Permission.SPAWN])
    headers = {"Authorization": f"Bearer {token}"}
    response = await api.post(f"/v1/operations/{original}/replay", headers=headers)
    assert response.status == 403
    assert "spawn_disposable" in (await response.json())["error"]
