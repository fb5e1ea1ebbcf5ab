"""Tokens, projects and permissions, over a live app on fakes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contree.domain.project import project_id_of
from contree.domain.token import Permission
from tests.unit.http.world import Api, World, bearer

READS = (
    "/v1/images",
    "/v1/files",
    f"/v1/files/{'0' * 64}",
    "/v1/operations",
    "/v1/operations/00000000-0000-4000-8000-000000000000",
    "/v1/operations/00000000-0000-4000-8000-000000000000/events",
    "/v1/inspect/?tag=x",
    "/v1/inspect/00000000-0000-4000-8000-000000000000/",
    "/v1/inspect/00000000-0000-4000-8000-000000000000/list?path=/",
    "/v1/inspect/00000000-0000-4000-8000-000000000000/download?path=/",
    "/v1/inspect/00000000-0000-4000-8000-000000000000/archive?path=/",
)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nobody", "Bearer ü"]
)
async def test_without_a_known_token_everything_is_a_401(
    anonymous: Api, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/whoami", *READS):
        response = await anonymous.get(path, headers=headers)
        assert response.status == (await response.json())["status"] == 401, path


async def test_a_token_that_has_expired_is_refused(anonymous: Api, world: World) -> None:
    secret = await world.token(lives=timedelta(hours=1))
    assert (await anonymous.get("/v1/whoami", headers=bearer(secret))).status == 200
    world.clock.advance(3601)
    assert (await anonymous.get("/v1/whoami", headers=bearer(secret))).status == 401


async def test_the_project_header_is_optional_and_must_be_the_tokens_own(api: Api) -> None:
    for project, status in (
        ("alpha", 200),
        (str(project_id_of("alpha")), 200),
        ("beta", 401),
        ("x" * 1000, 401),
    ):
        response = await api.get("/v1/whoami", headers={"Project": project})
        assert response.status == status, project


async def test_whoami_needs_no_permission_and_has_every_key(anonymous: Api, world: World) -> None:
    secret = await world.token(permissions=[Permission.CANCEL], lives=timedelta(days=1))
    body = await (await anonymous.get("/v1/whoami", headers=bearer(secret))).json()
    assert body["token_expiration"] == int((world.clock.now() + timedelta(days=1)).timestamp())
    assert body["permissions"] == {
        "import": False,
        "spawn": False,
        "spawn_disposable": False,
        "list": False,
        "cancel": True,
        "set_image_tag": False,
        "audit": False,
    }
    assert body["limits"]["instance_max_timeout"] == world.limits.instance_max_timeout_s
    assert set(body["operations_stat"].values()) == {0}


async def test_reading_needs_the_permission_to_list(anonymous: Api, world: World) -> None:
    others = [p for p in Permission if p is not Permission.LIST]
    secret = await world.token(permissions=others)
    for path in READS:
        response = await anonymous.get(path, headers=bearer(secret))
        assert response.status == 403, path
        assert "'list'" in (await response.json())["error"]


async def test_each_change_needs_its_own_permission(anonymous: Api, world: World) -> None:
    image_id = await world.image()
    run = {"command": "true", "image": str(image_id)}
    secret = await world.token(permissions=[Permission.LIST])
    url = {"registry": {"url": "docker://docker.io/library/busybox"}}
    for method, path, body, missing in (
        ("POST", "/v1/instances", run, "spawn"),
        ("POST", "/v1/instances", run | {"disposable": True}, "spawn_disposable"),
        ("POST", "/v1/images/import", url, "import"),
        ("PATCH", f"/v1/images/{image_id}/tag", {"tag": "a"}, "set_image_tag"),
        ("DELETE", f"/v1/images/{image_id}/tag", None, "set_image_tag"),
        ("DELETE", f"/v1/operations/{image_id}", None, "cancel"),
        ("POST", "/v1/files", None, "spawn"),
        ("GET", f"/v1/operations/{image_id}/events?follow=1", None, "spawn"),
    ):
        response = await anonymous.request(method, path, json=body, headers=bearer(secret))
        assert response.status == 403, (method, path)
        assert f"'{missing}'" in (await response.json())["error"]


async def test_one_of_the_two_spawn_permissions_is_enough_to_follow(
    anonymous: Api, world: World
) -> None:
    secret = await world.token(permissions=[Permission.LIST, Permission.SPAWN_DISPOSABLE])
    path = f"/v1/operations/{await world.image()}/events?follow=1"
    assert (await anonymous.get(path, headers=bearer(secret))).status == 404


async def test_another_projects_things_do_not_exist(anonymous: Api, world: World) -> None:
    image_id = await world.image(tag="mine")
    stranger = bearer(await world.token("beta"))
    run = {"command": "true", "image": "tag:mine"}
    for method, path, body in (
        ("GET", f"/v1/inspect/{image_id}/", None),
        ("GET", "/v1/inspect/?tag=mine", None),
        ("PATCH", f"/v1/images/{image_id}/tag", {"tag": "x"}),
        ("POST", "/v1/instances", run),
        ("POST", "/v1/instances", run | {"image": str(image_id)}),
    ):
        response = await anonymous.request(method, path, json=body, headers=stranger)
        assert response.status == 404, path
    images = await anonymous.get("/v1/images", headers=stranger)
    assert await images.json() == {"images": []}


async def test_the_bare_address_says_where_to_go_on(anonymous: Api) -> None:
    response = await anonymous.get("/")
    assert response.status == 200
    value = await response.json()
    assert value == {
        "name": "contree",
        "links": {"openapi": "openapi.json", "ready": "readyz", "alive": "healthz"},
        "docs": "docs/api.md and docs/clients/README.md of the source tree",
    }
    for link in value["links"].values():
        assert (await anonymous.get(f"/{link}")).status == 200


async def test_health_needs_no_token_and_readiness_says_when_it_is_not(
    anonymous: Api, world: World
) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await anonymous.get(path)).status == 200
    world.is_ready = False
    assert (await anonymous.get("/healthz")).status == 200
    response = await anonymous.get("/readyz")
    assert response.status == (await response.json())["status"] == 503
