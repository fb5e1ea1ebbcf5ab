"""Runs and operations through the app on fakes: every key, in every state, good and bad input."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest

from contree.app.journal import JournalEntry
from contree.domain.operation import InstanceRequested
from tests.unit.http.world import Api, World

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
METADATA_KEYS = (
    *("args", "command", "cwd", "disposable", "env", "files", "hostname", "image", "result"),
    *("shell", "stdin", "timeout", "truncate_output_at", "preserve_env", "preserve_cwd", "uid"),
    *("gid", "resources_limits", "networking"),
)


async def start(api: Api, world: World, **fields: Any) -> dict[str, Any]:
    """POST a run and return the answer."""
    image_id = await world.image()
    body = {"command": "echo", "image": str(image_id), **fields}
    response = await api.post("/v1/instances", json=body)
    assert response.status == 201, await response.text()
    answer: dict[str, Any] = await response.json()
    assert response.headers["Location"] == f"/v1/operations/{answer['uuid']}"
    return answer


async def look(api: Api, uuid: str, query: str = "") -> dict[str, Any]:
    response = await api.get(f"/v1/operations/{uuid}{query}")
    assert response.status == 200
    body: dict[str, Any] = await response.json()
    assert ("Retry-After" in response.headers) == (
        body["status"] in {"PENDING", "ASSIGNED", "EXECUTING"}
    )
    return body


async def test_a_run_is_answered_with_every_field_filled(api: Api, world: World) -> None:
    answer = await start(api, world)
    assert set(METADATA_KEYS) < set(answer)
    assert answer["result"] is None
    assert answer["stdin"] == {
        "value": "",
        "encoding": "ascii",
        "close": True,
        "truncated": False,
    }
    assert (answer["env"], answer["files"], answer["args"], answer["cwd"]) == ({}, {}, [], "")
    assert answer["hostname"] == "linuxkit"
    assert answer["truncate_output_at"] == 1_048_576
    assert answer["timeout"] == world.limits.instance_default_timeout_s


async def test_a_tag_is_resolved_and_secrets_are_masked(api: Api, world: World) -> None:
    image_id = await world.image(tag="py:3")
    body = {
        "command": "c",
        "image": "tag:py:3",
        "env": {"API_TOKEN": "hidden", "MINE": "hidden", "A": "b", "GONE": None},
        "secret_env": ["MINE"],
        "stdin": {"value": "grüß"},
    }
    answer = await (await api.post("/v1/instances", json=body)).json()
    shown = (await look(api, answer["uuid"]))["metadata"]
    for value in (answer, shown):
        assert value["image"] == str(image_id)
        assert value["env"] == {
            "API_TOKEN": "<MASKED>",
            "MINE": "<MASKED>",
            "A": "b",
            "GONE": None,
        }
        assert value["stdin"]["value"] == "grüß"


async def test_long_stdin_is_echoed_up_to_a_bound_and_says_so(api: Api, world: World) -> None:
    data = base64.b64encode(b"\xff" * 100_000).decode()
    answer = await start(api, world, stdin={"value": data, "encoding": "base64", "close": False})
    shown = (await look(api, answer["uuid"]))["metadata"]["stdin"]
    assert shown == answer["stdin"]
    assert shown["truncated"] is True
    assert base64.b64decode(shown["value"]) == b"\xff" * 65_536


async def test_a_long_request_is_shown_whole_as_long_as_its_content_is_there(
    api: Api, world: World
) -> None:
    args = ["x" * 30_000, "\u00fc"]
    answer = await start(api, world, args=args, env={"A": "b"}, cwd="/w")
    assert answer["args"] == args
    shown = (await look(api, answer["uuid"]))["metadata"]
    assert (shown["args"], shown["env"], shown["cwd"]) == (args, {"A": "b"}, "/w")
    assert "truncated" not in shown
    (listed,) = await (await api.get("/v1/operations")).json()
    assert listed["uuid"] == answer["uuid"]
    await world.erase()
    gone = (await look(api, answer["uuid"]))["metadata"]
    assert gone == shown | {"args": [], "env": {}, "cwd": "", "truncated": True}


async def test_files_are_echoed_with_octal_modes(api: Api, world: World) -> None:
    uuid = (await (await api.post("/v1/files", data=b"x")).json())["uuid"]
    answer = await start(api, world, files={"/a": {"uuid": uuid, "mode": "0o100755"}})
    assert answer["files"] == {
        "/a": {"uuid": uuid, "uid": 0, "gid": 0, "mode": "0755", "unpack": False}
    }


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"image": "busybox"}, 400, "image"),
        ({"image": "tag:"}, 400, "image"),
        ({"image": "tag:none"}, 404, None),
        ({"image": UNKNOWN}, 404, None),
        ({"command": ""}, 400, "command"),
        ({"command": "a\0b"}, 400, "command"),
        ({"args": ["\0"]}, 400, "args[0]"),
        ({"cwd": "tmp"}, 400, "cwd"),
        ({"cwd": "/a/../b"}, 400, "cwd"),
        ({"uid": -1}, 400, "uid"),
        ({"gid": 2**32}, 400, "gid"),
        ({"hostname": ""}, 400, "hostname"),
        ({"hostname": "\u00fc" * 33}, 400, "hostname"),
        ({"timeout": 0}, 400, "timeout"),
        ({"timeout": 3601}, 400, "timeout"),
        ({"timeout": 10**30}, 400, "timeout"),
        ({"truncate_output_at": 10_485_761}, 400, "truncate_output_at"),
        ({"truncate_output_at": -1}, 400, "truncate_output_at"),
        ({"env": {"A=B": "x"}}, 400, "env"),
        ({"env": {"": "x"}}, 400, "env"),
        ({"env": {"A": "\0"}}, 400, "env.A"),
        ({"files": {"rel": {"uuid": UNKNOWN}}}, 400, "files['rel']"),
        ({"files": {"/a/../b": {"uuid": UNKNOWN}}}, 400, "files['/a/../b']"),
        ({"files": {"/": {"uuid": UNKNOWN}}}, 400, "files['/']"),
        ({"files": {"/a": {"uuid": UNKNOWN}}}, 400, "files['/a'].uuid"),
        ({"files": {"/a": {"uuid": "x"}}}, 400, "files['/a'].uuid"),
        ({"resources_limits": {"max_layer_bytes": 0}}, 400, "resources_limits.max_layer_bytes"),
    ],
)
async def test_a_bad_run_is_refused_by_its_field_and_leaves_no_operation(
    api: Api, world: World, fields: dict[str, Any], status: int, field: str | None
) -> None:
    body = {"command": "true", "image": str(await world.image()), **fields}
    response = await api.post("/v1/instances", json=body)
    answer = await response.json()
    assert (response.status, answer["status"]) == (status, status)
    assert answer.get("field") == field
    assert not any(isinstance(e, InstanceRequested) for e in world.log.events)


@pytest.mark.parametrize("fields", [{"timeout": 1000}, {"truncate_output_at": 10_485_760}])
async def test_what_the_published_clients_ask_for_is_allowed(
    api: Api, world: World, fields: dict[str, Any]
) -> None:
    await start(api, world, **fields)


async def test_the_content_type_of_a_body_does_not_matter(api: Api, world: World) -> None:
    body = f'{{"command":"c","image":"{await world.image()}"}}'
    for content_type in ("text/plain", "application/octet-stream", "x"):
        headers = {"Content-Type": content_type}
        assert (await api.post("/v1/instances", data=body, headers=headers)).status == 201
    headers = {"Content-Type": "application/json"}
    assert (await api.get("/v1/images", headers=headers)).status == 200


async def test_a_run_is_visible_at_once_and_has_every_key_in_every_state(
    api: Api, world: World
) -> None:
    uuid = (await start(api, world))["uuid"]
    pending = await look(api, uuid)
    operation = await world.begin(UUID(uuid))
    world.clock.advance(3)
    executing = await look(api, uuid)
    for value, status, duration in ((pending, "PENDING", 0.0), (executing, "EXECUTING", 3.0)):
        assert value["status"] == status
        assert isinstance(value["duration"], float)
        assert value["duration"] == duration
        assert set(METADATA_KEYS) == set(value["metadata"])
        assert value["metadata"]["result"] is None
        assert value["result"] is None
    operation.fail(world.context(), error="the guest did not boot")
    await world.log.append(operation)
    failed = await look(api, uuid)
    assert (failed["status"], failed["error"]) == ("FAILED", "the guest did not boot")
    assert failed["result"] is None
    assert failed["result_image_uuid"] is None


async def test_a_success_has_its_result_its_counters_and_its_streams(
    api: Api, world: World
) -> None:
    uuid = (await start(api, world))["uuid"]
    image_id = await world.image()
    outcome = await world.outcome(stdout=b"out\n", stderr=b"\x1b[1mred", exit_code=3)
    await world.succeed(UUID(uuid), outcome, image_id=image_id)
    value = await look(api, uuid)
    assert (value["status"], value["error"]) == ("SUCCESS", None)
    assert value["result"] == {"image": str(image_id), "tag": None}
    assert value["result_image_uuid"] == str(image_id)
    assert (value["consumed_cpu"], value["consumed_memory"]) == (0.3, 2048)
    assert (value["image_size"], value["duration"]) == (512, 2.0)
    result = value["metadata"]["result"]
    assert result["state"] == {
        "exit_code": 3,
        "signal": -1,
        "pid": 7,
        "timed_out": False,
        "oom_killed": False,
        "core_dump": False,
        "continued": False,
        "stopped": False,
    }
    assert len(result["resources"]) == 16
    assert all(isinstance(counter, int | float) for counter in result["resources"].values())
    assert result["resources"]["elapsed_time"] == 1.5
    assert result["stdout"] == {"value": "out\n", "encoding": "ascii", "truncated": False}
    assert result["stderr"]["encoding"] == "base64"
    assert base64.b64decode(result["stderr"]["value"]) == b"\x1b[1mred"


async def test_a_disposable_success_names_no_image_but_has_both_keys(
    api: Api, world: World
) -> None:
    uuid = (await start(api, world, disposable=True))["uuid"]
    await world.succeed(UUID(uuid), await world.outcome())
    value = await look(api, uuid)
    assert value["result"] == {"image": None, "tag": None}
    assert value["result_image_uuid"] is None


async def test_a_stream_that_was_cut_ends_at_a_whole_character(api: Api, world: World) -> None:
    uuid = (await start(api, world))["uuid"]
    outcome = await world.outcome(stdout="für".encode()[:2], dropped_bytes=5)
    await world.succeed(UUID(uuid), outcome)
    stdout = (await look(api, uuid))["metadata"]["result"]["stdout"]
    assert stdout == {"value": "f", "encoding": "ascii", "truncated": True}


async def test_polling_reads_the_output_from_the_store_once(api: Api, world: World) -> None:
    uuid = (await start(api, world))["uuid"]
    await world.succeed(UUID(uuid), await world.outcome(stdout=b"x" * 100))
    first = await look(api, uuid)
    reads = world.blobs.reads
    assert await look(api, uuid) == first
    assert world.blobs.reads == reads


async def test_output_that_the_store_has_lost_leaves_the_operation_readable(
    api: Api, world: World
) -> None:
    uuid = (await start(api, world))["uuid"]
    await world.succeed(UUID(uuid), await world.outcome(stdout=b"x"))
    world.blobs.stored.clear()
    stdout = (await look(api, uuid))["metadata"]["result"]["stdout"]
    assert stdout == {"value": "", "encoding": "ascii", "truncated": True}


async def test_an_import_shows_its_request_and_credentials_only_when_there_were_some(
    api: Api, world: World
) -> None:
    registry: dict[str, Any] = {"url": "docker://registry.example/a"}
    body = {"registry": registry, "tag": "t", "timeout": 60}
    plain = (await (await api.post("/v1/images/import", json=body)).json())["uuid"]
    assert (await look(api, plain))["metadata"] == {
        "registry": {"url": registry["url"]},
        "tag": "t",
        "timeout": 60,
    }
    registry["credentials"] = {"username": "me", "password": "p"}
    with_secret = (await (await api.post("/v1/images/import", json=body)).json())["uuid"]
    value = await look(api, with_secret)
    credentials = {"username": "me", "password": "<MASKED>"}
    assert value["metadata"]["registry"]["credentials"] == credentials
    assert (value["kind"], value["image_uuid"], value["duration"]) == ("image_import", None, 0.0)


async def test_inflight_shows_what_a_running_command_has_written(api: Api, world: World) -> None:
    uuid = (await start(api, world))["uuid"]
    await world.begin(UUID(uuid))
    text = {"encoding": "ascii", "truncated": False}
    euro = base64.b64encode("€".encode()[:2]).decode()
    entries: list[tuple[str, int, dict[str, Any]]] = [
        ("spawn", 1, {"pid": 41}),
        ("stdout", 1, {"value": "a", **text}),
        ("stdout", 2, {"value": "not of the command", **text}),
        ("stdout", 1, {"value": "b\n", **text}),
        ("stderr", 1, {"value": euro, "encoding": "base64", "truncated": False}),
        ("truncated", 1, {"stream": "stdout", "bytes_emitted": 3, "bytes_dropped": 1}),
    ]
    await world.journal.append(
        UUID(uuid),
        [JournalEntry(at=world.clock.now(), type=t, spid=s, data=d) for t, s, d in entries],
    )
    assert (await look(api, uuid))["result"] is None
    value = await look(api, uuid, "?inflight")
    stdout = {"value": "ab\n", "encoding": "ascii", "truncated": True}
    assert value["result"]["stdout"] == stdout
    assert (value["result"]["image"], value["result"]["tag"]) == (None, None)
    partial = value["metadata"]["result"]
    assert partial["stdout"] == stdout
    assert partial["stderr"]["value"] == ""  # the two bytes are not a whole character yet
    assert partial["state"]["pid"] == 41
    assert (partial["state"]["exit_code"], partial["state"]["signal"]) == (-1, -1)


async def test_operations_are_listed_newest_first_and_filtered(api: Api, world: World) -> None:
    uuids = []
    for _ in range(3):
        uuids.append((await start(api, world))["uuid"])
        world.clock.advance(60)
    body = {"registry": {"url": "docker://registry.example/a"}}
    uuids.append((await (await api.post("/v1/images/import", json=body)).json())["uuid"])
    await world.begin(UUID(uuids[1]))

    async def listed(query: str) -> list[str]:
        response = await api.get(f"/v1/operations?{query}")
        assert response.status == 200
        return [operation["uuid"] for operation in await response.json()]

    assert await listed("") == uuids[::-1]
    assert await listed("limit=2&offset=1") == [uuids[2], uuids[1]]
    assert await listed("status=EXECUTING") == [uuids[1]]
    assert await listed("kind=image_import") == [uuids[3]]
    assert await listed("since=90s&kind=instance") == [uuids[2]]
    for query in ("status=success", "status=", "kind=Instance", "limit=x"):
        response = await api.get(f"/v1/operations?{query}")
        assert response.status == 400
        assert (await response.json())["field"] == query.split("=")[0]


async def test_cancelling_is_accepted_until_the_end_and_then_a_conflict(
    api: Api, world: World
) -> None:
    pending, running = [(await start(api, world))["uuid"] for _ in range(2)]
    await world.begin(UUID(running))
    for uuid, status in ((pending, "CANCELLED"), (running, "EXECUTING")):
        response = await api.delete(f"/v1/operations/{uuid}")
        assert (response.status, await response.read()) == (202, b"")
        assert (await look(api, uuid))["status"] == status
    response = await api.delete(f"/v1/operations/{pending}")
    assert response.status == (await response.json())["status"] == 409
    cancelled = await look(api, pending)
    assert cancelled["error"]
    assert cancelled["metadata"]["result"] is None


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_operation_is_a_404_and_a_malformed_one_a_400(
    api: Api, method: str
) -> None:
    for name, status in ((UNKNOWN, 404), ("x", 400), (UNKNOWN[:-1], 400), (f"{UNKNOWN}0", 400)):
        response = await api.request(method, f"/v1/operations/{name}")
        assert response.status == (await response.json())["status"] == status
