"""Every field of POST /instances over plain HTTP; each guest checks several of them at once."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra.images.oci_layout import ImageConfig
from infra.images.registry import RunningRegistry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.support.registry import publish
from tests.support.server import RunningServer

MIB = 1024**2
UNKNOWN = "11111111-2222-4333-8444-555555555555"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(text: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.decode().splitlines())


@pytest.fixture(scope="module")
def with_env(api: Api, registry: RunningRegistry, busybox_url: str) -> str:
    """Busybox with ENV and WORKDIR in its config; it has no other layers than busybox."""
    layers = _layers_of(small_image().layout)
    config = ImageConfig(env={"PATH": "/bin", "FROM_IMAGE": "yes"}, workdir="/var")
    url = publish(registry, "with/env", layers, config=config).url
    return api.import_image(url)


def _layers_of(layout: Path) -> list[bytes]:
    """The uncompressed layers of the one image of a layout."""

    def blob(digest: str) -> bytes:
        return bytes((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())

    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    return [gzip.decompress(blob(layer["digest"])) for layer in manifest["layers"]]


def test_the_answer_is_the_request_with_every_default_filled(api: Api, busybox: str) -> None:
    body = {"image": "tag:busybox:latest", "command": "true"}
    answer = api.http.post("/instances", json=body)
    value = answer.json()
    uuid = value.pop("uuid")
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/operations/{uuid}")
    assert value == {
        "command": "true",
        "image": busybox,
        "args": [],
        "shell": False,
        "env": {},
        "cwd": "",
        "uid": 0,
        "gid": 0,
        "hostname": "linuxkit",
        "stdin": {"value": "", "encoding": "ascii", "close": True, "truncated": False},
        "timeout": 300,
        "truncate_output_at": MIB,
        "disposable": False,
        "preserve_env": False,
        "preserve_cwd": False,
        "files": {},
        "resources_limits": {"max_layer_bytes": 12 * 1024**3},
        "networking": {"enabled": True},
        "result": None,
    }
    ended = api.wait(uuid)
    assert ended["status"] == "SUCCESS"
    # Nothing changed: the source image, and no bytes of a new layer.
    assert (ended["result"], ended["image_size"]) == ({"image": busybox, "tag": None}, 0)
    assert ended["image_uuid"] == busybox
    assert {name: ended["metadata"][name] for name in value if name != "result"} == {
        name: value[name] for name in value if name != "result"
    }


def test_direct_mode_looks_the_command_up_and_passes_arguments_as_they_are(
    api: Api, with_env: str
) -> None:
    orders: dict[str, dict[str, Any]] = {
        "args": {"command": "printf", "args": ["%s\\n", "a b", "$FROM_IMAGE", "*"]},
        "env": {"command": "env", "args": [], "env": {"MINE": "1", "UNSET": None}},
        "pwd": {"command": "pwd", "args": []},
    }
    ran = api.run_all(with_env, orders, disposable=True)
    assert ran["args"].want_exit().lines == ["a b", "$FROM_IMAGE", "*"]
    # ENV of the image is for shells; the work directory is for all.
    assert environment(ran["env"].want_exit().stdout) == {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "linuxkit",
        "HOME": "/root",
        "MINE": "1",
    }
    assert ran["pwd"].want_exit().lines == ["/var"]


def test_shell_mode_inherits_env_and_workdir_and_ignores_args(api: Api, with_env: str) -> None:
    ran = api.run(
        with_env,
        "pwd; env | grep -v PWD= | grep -v SHLVL=",
        shell=True,
        args=["-s", "ignored"],
        env={"MINE": "ü", "PATH": "/bin:/sbin", "UNSET": None},
        disposable=True,
    )
    first, *rest = ran.want_exit().lines
    assert first == "/var"
    assert environment("\n".join(rest).encode()) == {
        "PATH": "/bin:/sbin",
        "HOSTNAME": "linuxkit",
        "HOME": "/root",
        "FROM_IMAGE": "yes",
        "MINE": "ü",
    }


def test_user_group_hostname_directory_and_stdin(api: Api, busybox: str) -> None:
    ran = api.run(
        busybox,
        "id -u; id -g; hostname; cat /proc/sys/kernel/hostname; pwd; stat -c %u:%g:%a .; "
        "cat | base64; touch /root/x 2>&1",
        uid=1000,
        gid=1001,
        hostname="my-box",
        cwd="/made/on/the/way/",
        stdin={"value": base64.b64encode(b"\0\xff\n").decode(), "encoding": "base64"},
    )
    lines = ran.want_exit(1).lines
    assert lines[:5] == ["1000", "1001", "my-box", "my-box", "/made/on/the/way"]
    assert base64.b64decode(lines[6]) == b"\0\xff\n"
    assert "denied" in lines[7]
    assert api.listing(ran.image, "/made/on/the").keys() == {"way"}
    # A name given to the guest is not a file of the image.
    assert api.download(ran.image, "/etc/hostname") == api.download(busybox, "/etc/hostname")


def test_stdin_under_the_label_ascii_is_utf_8_and_ends(api: Api, busybox: str) -> None:
    orders: dict[str, dict[str, Any]] = {
        "some": {"command": "cat", "args": [], "stdin": {"value": "grüße €"}},
        "none": {"command": "cat; echo done"},
    }
    ran = api.run_all(busybox, orders, disposable=True)
    assert ran["some"].want_exit().stdout == "grüße €".encode()
    assert ran["none"].want_exit().stdout == b"done\n"


def test_files_come_with_owner_and_mode_and_replace_what_was_there(api: Api, busybox: str) -> None:
    script, twice = api.upload(b"#!/bin/sh\necho run\n"), api.upload(b"twice")
    files = {
        "/opt/deep/er/run.sh": {"uuid": script, "mode": "0755"},
        "/opt/a": {"uuid": twice, "uid": 7, "gid": 8, "mode": "0o100640"},
        "/opt/b": {"uuid": twice, "mode": 0o4711},
        "/etc/passwd": {"uuid": twice},
        "/opt/empty": {"uuid": api.upload(b"")},
    }
    command = "/opt/deep/er/run.sh; stat -c '%n %u:%g %a %s' /opt/a /opt/b /etc/passwd /opt/empty"
    ran = api.run(busybox, command, files=files)
    assert ran.want_exit().lines == [
        "run",
        "/opt/a 7:8 640 5",
        "/opt/b 0:0 4711 5",
        "/etc/passwd 0:0 644 5",
        "/opt/empty 0:0 644 0",
    ]
    listed = api.listing(ran.image, "/opt")
    assert (listed["a"]["uid"], listed["a"]["mode"]) == (7, 0o100640)
    assert api.download(ran.image, "/etc/passwd") == b"twice"


def test_preserve_env_keeps_and_deletes_for_both_modes_and_never_a_secret(
    api: Api, with_env: str
) -> None:
    env = {"KEPT": "1", "FROM_IMAGE": "", "DEPLOY_TOKEN": "hunter2-preserved", "GONE": None}
    made = api.run(with_env, "true", env=env, preserve_env=True).want_exit()
    assert made.image != with_env
    orders: dict[str, dict[str, Any]] = {
        "direct": {"command": "env", "args": []},
        "shell": {"command": "env", "env": {"KEPT": "2"}},
    }
    for mode, ran in api.run_all(made.image, orders, disposable=True).items():
        seen = environment(ran.want_exit().stdout)
        assert seen["KEPT"] == {"direct": "1", "shell": "2"}[mode]
        # "" and null delete, also what the image brought; a secret is not kept in an image.
        assert not {"FROM_IMAGE", "GONE", "DEPLOY_TOKEN"} & seen.keys()


def test_the_request_env_alone_is_not_kept_and_preserve_cwd_is(api: Api, with_env: str) -> None:
    orders: dict[str, dict[str, Any]] = {
        "env": {"command": "true", "env": {"NOT": "kept"}},
        "cwd": {"command": "cd /tmp", "cwd": "/srv/app", "preserve_cwd": True},
    }
    ran = api.run_all(with_env, orders)
    assert ran["env"].want_exit().image == with_env
    moved = ran["cwd"].want_exit().image
    assert moved != with_env
    assert api.run(moved, "pwd", args=[]).want_exit().stdout == b"/srv/app\n"


def test_a_timeout_is_an_outcome_with_its_image(api: Api, busybox: str) -> None:
    ran = api.run(busybox, "echo kept >/kept; echo said; sleep 600", timeout=4)
    assert ran.state | {"pid": 0} == {
        "exit_code": -1,
        "signal": 9,
        "pid": 0,
        "timed_out": True,
        "oom_killed": False,
        "core_dump": False,
        "continued": False,
        "stopped": False,
    }
    assert ran.stdout == b"said\n"
    assert api.download(ran.image, "/kept") == b"kept\n"


def test_death_by_a_signal_is_an_outcome(api: Api, busybox: str) -> None:
    ran = api.run(busybox, "trap '' INT; kill -INT $$; echo alive; kill -TERM $$; sleep 9")
    assert (ran.state["exit_code"], ran.state["signal"]) == (-1, 15)
    assert (ran.state["timed_out"], ran.stdout, ran.image) == (False, b"alive\n", busybox)


def test_output_is_cut_per_stream(api: Api, busybox: str) -> None:
    ran = api.run(
        busybox,
        "head -c 5000 /dev/zero; head -c 10 /dev/zero >&2",
        truncate_output_at=1000,
        disposable=True,
    ).want_exit()
    streams = ran.operation["metadata"]["result"]
    assert (ran.stdout, streams["stdout"]["truncated"]) == (b"\0" * 1000, True)
    assert (ran.stderr, streams["stderr"]["truncated"]) == (b"\0" * 10, False)
    (cut,) = [event for event in api.events(ran.uuid) if event["type"] == "truncated"]
    assert cut["data"] == {"stream": "stdout", "bytes_emitted": 1000, "bytes_dropped": 4000}


def test_a_delta_over_max_layer_bytes_fails_and_leaves_no_image(
    api: Api, busybox: str, server: RunningServer
) -> None:
    before = {row["uuid"] for row in api.get("/images", limit=1000)["images"]}
    ran = api.run(
        busybox,
        "echo worked; dd if=/dev/urandom of=/big bs=1M count=6 2>/dev/null; exit 3",
        resources_limits={"max_layer_bytes": 4 * MIB},
        status="FAILED",
    )
    assert "max_layer_bytes" in ran.error
    assert ran.want_exit(3).stdout == b"worked\n"
    assert ran.operation["consumed_memory"] > 0
    assert ran.operation["result"] is None
    assert {row["uuid"] for row in api.get("/images", limit=1000)["images"]} == before
    fits = api.run(
        busybox,
        "dd if=/dev/urandom of=/big bs=1M count=2 2>/dev/null",
        resources_limits={"max_layer_bytes": 4 * MIB},
    ).want_exit()
    # The bytes of the new layer: a tar with one file of 2 MiB and little else.
    assert 2 * MIB < fits.operation["image_size"] < 2 * MIB + 16 * 1024


def test_a_name_that_no_layer_can_hold_costs_the_image_and_not_the_result(
    api: Api, busybox: str
) -> None:
    ran = api.run(busybox, "touch /.wh.a; echo worked >&2; exit 4", status="FAILED")
    assert ".wh.a" in ran.error
    assert ran.operation["result"] is None
    assert ran.want_exit(4).stderr == b"worked\n"
    assert [event["type"] for event in api.events(ran.uuid)] == [
        "init", "spawn", "stderr", "exit", "shutdown", "completion",
    ]  # fmt: skip


def test_a_command_that_cannot_be_started_fails_and_says_why(api: Api, busybox: str) -> None:
    orders: dict[str, dict[str, Any]] = {
        "no-such-program": {"command": "no-such-program", "args": []},
        "/etc/passwd": {"command": "/etc/passwd", "args": []},
        "shell: true": {"command": "echo a b", "args": []},
        "/no/shell": {"command": "true", "env": {"SHELL": "/no/shell"}},
    }
    for word, ran in api.run_all(busybox, orders, status="FAILED").items():
        assert word in ran.error
        assert ran.operation["result"] is None
        assert api.events(ran.uuid)[-1]["data"]["status"] == "FAILED"


async def test_secrets_reach_the_command_and_nothing_else(
    api: Api, busybox: str, server: RunningServer
) -> None:
    secret = f"hunter2-{os.urandom(16).hex()}"
    env = {"API_TOKEN": secret, "db_password": secret, "OPEN": "visible"}
    ran = api.run(busybox, "test $API_TOKEN = $db_password && echo $API_TOKEN | wc -c", env=env)
    assert ran.want_exit().stdout.decode().strip() == str(len(secret) + 1)
    shown = ran.operation["metadata"]["env"]
    assert shown == {"API_TOKEN": "<MASKED>", "db_password": "<MASKED>", "OPEN": "visible"}
    (spawned,) = [event for event in api.events(ran.uuid) if event["type"] == "spawn"]
    assert spawned["data"]["env"]["API_TOKEN"] == "<MASKED>"
    assert secret not in str(api.events(ran.uuid))
    assert secret not in server.log_text

    connection = await asyncpg.connect(server.dsn())
    try:
        for table in ("public.stored_events", "public.sealed_secrets", "public.operation_journal"):
            rows = await connection.fetch(f"SELECT t::text FROM {table} t")
            assert all(secret not in row[0] for row in rows)
            assert all(secret.encode().hex() not in row[0] for row in rows)
        left = await connection.fetchval("SELECT count(*) FROM public.sealed_secrets")
        assert left == 0
        facts = await connection.fetchval(
            "SELECT convert_from(state, 'UTF8') FROM public.stored_events "
            "WHERE originator_id = $1 AND topic = 'contree.operation.started'",
            ran.uuid,
        )
    finally:
        await connection.close()
    # networking.enabled is true by default; the event says what the guest really had.
    assert '"network":"none"' in facts.replace(" ", "")


REFUSED: dict[str, dict[str, Any]] = {
    "command": {"command": ""},
    "args[0]": {"args": ["\0"]},
    "args": {"args": "text"},
    "env[...]": {"env": {"A": 1}},
    "env": {"env": {"A=B": "x"}},
    "cwd": {"cwd": "relative"},
    "uid": {"uid": -1},
    "gid": {"gid": 2**32},
    "hostname": {"hostname": "x" * 65},
    "stdin.value": {"stdin": {"value": "=not base64=", "encoding": "base64"}},
    "stdin.encoding": {"stdin": {"value": "", "encoding": "utf-16"}},
    "timeout": {"timeout": 3601},
    "truncate_output_at": {"truncate_output_at": 10 * MIB + 1},
    "resources_limits.max_layer_bytes": {"resources_limits": {"max_layer_bytes": 0}},
    "files['/a'].mode": {"files": {"/a": {"uuid": UNKNOWN, "mode": "rwx"}}},
    "files['/a'].uuid": {"files": {"/a": {"uuid": UNKNOWN}}},
    "files['/../a']": {"files": {"/../a": {"uuid": UNKNOWN}}},
    "files['a']": {"files": {"a": {"uuid": UNKNOWN}}},
    "files['/proc/a']": {"files": {"/proc/a": {"uuid": UNKNOWN}}},
    "files['/a/.wh.b']": {"files": {"/a/.wh.b": {"uuid": UNKNOWN}}},
    "image": {"image": "busybox:latest"},
    "disposable": {"disposable": "yes"},
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_refusal_names_the_field_and_records_nothing(api: Api, busybox: str, field: str) -> None:
    before = len(api.get("/operations", limit=1000))
    body = {"image": busybox, "command": "true", **REFUSED[field]}
    refused = api.refusal("POST", "/instances", json=body)
    assert (refused["status"], refused["field"]) == (400, field)
    assert len(api.get("/operations", limit=1000)) == before


def test_an_unknown_image_or_tag_is_not_found(api: Api, busybox: str) -> None:
    for image in (UNKNOWN, "tag:no/such"):
        body = {"image": image, "command": "true"}
        assert api.refusal("POST", "/instances", json=body)["status"] == 404


async def test_the_largest_request_runs_and_its_event_is_small(
    api: Api, busybox: str, server: RunningServer
) -> None:
    """Seven arguments of nearly 128 KiB each: Linux takes at most 131,071 bytes as one."""
    script, env = "x" * 131_050, {f"VARIABLE_{n}": "y" * 900 for n in range(100)}
    args = ["-c", 'echo $# "${VARIABLE_99}" ${#1} ${#7}', "sh", *[script] * 7]
    ran = api.run(busybox, "sh", args=args, env=env, shell=False).want_exit()
    assert ran.stdout.split() == [b"7", b"y" * 900, b"131050", b"131050"]
    assert ran.operation["metadata"]["args"] == args
    assert ran.operation["metadata"]["env"] == env
    connection = await asyncpg.connect(server.dsn())
    try:
        largest = await connection.fetchval(
            "SELECT max(octet_length(state)) FROM stored_events WHERE originator_id = $1",
            ran.uuid,
        )
    finally:
        await connection.close()
    assert largest < 4096


def test_the_largest_allowed_values_pass(api: Api, busybox: str) -> None:
    body = {
        "image": busybox,
        "command": "true",
        "args": ["x" * 100_000],
        "truncate_output_at": 10 * MIB,
        "timeout": 3600,
        "uid": 2**32 - 2,
        "env": None,
        "networking": {"enabled": False},
        "unknown": {"keys": "are ignored"},
    }
    answer = api.http.post("/instances", json=body)
    assert answer.status_code == 201
    assert api.wait(answer.json()["uuid"])["status"] == "SUCCESS"
