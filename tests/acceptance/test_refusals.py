"""Requests that must be refused or that break off, over plain HTTP; nothing of them may stay."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance.api import Api
from tests.support.server import RunningServer, files_below

UNKNOWN = "11111111-2222-4333-8444-555555555555"


def stored(server: RunningServer) -> set[Path]:
    return files_below(server.data_dir / "content")


def send_and_vanish(server: RunningServer, token: str, head: str, body: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        request = (
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{head}\r\n\r\n"
        )
        connection.sendall(request.encode() + body)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 9000000", b"x" * 4_000_000),
        ("Transfer-Encoding: chunked", b"3d0900\r\n" + b"x" * 4_000_000 + b"\r\n7\r\nhal"),
    ],
)
def test_an_upload_cut_off_midway_leaves_nothing(
    api: Api, server: RunningServer, token: str, head: str, body: bytes
) -> None:
    whole = api.upload(b"whole")
    before, listed = stored(server), api.get("/files")["files"]
    send_and_vanish(server, token, head, body)
    assert api.upload(b"whole") == whole  # answered after the broken one was given up
    assert stored(server) == before
    assert [f["uuid"] for f in api.get("/files")["files"]] == [f["uuid"] for f in listed]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/operations/{UNKNOWN}", 404),
        ("GET", f"/operations/{UNKNOWN}/events", 404),
        ("DELETE", f"/operations/{UNKNOWN}", 404),
        ("GET", "/operations/not-a-uuid", 400),
        ("GET", f"/inspect/{UNKNOWN}/", 404),
        ("GET", f"/inspect/{UNKNOWN}/list?path=/", 404),
        ("GET", f"/inspect/{UNKNOWN}/download?path=/x", 404),
        ("GET", "/inspect/?tag=no/such", 404),
        ("GET", "/inspect/?tag=", 400),
        ("DELETE", f"/images/{UNKNOWN}/tag", 404),
        ("GET", f"/files/{'0' * 64}", 404),
        ("GET", "/files/xyz", 400),
        ("GET", "/images?limit=0", 400),
        ("GET", "/images?limit=1001", 400),
        ("GET", "/images?offset=-1", 400),
        ("GET", "/images?since=yesterday", 400),
        ("GET", "/images?uuid=xyz", 400),
        ("GET", "/operations?status=DONE", 400),
        ("GET", "/operations?kind=image", 400),
        ("GET", f"/operations/{UNKNOWN}/events?since=-2", 400),
        ("GET", "/nowhere", 404),
        ("PUT", "/images", 405),
    ],
)
def test_a_wrong_request_gets_its_status_and_a_text(
    api: Api, method: str, path: str, status: int
) -> None:
    assert api.refusal(method, path)["status"] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff", b'{"image": 1}'])
def test_a_malformed_body_is_refused(api: Api, body: bytes) -> None:
    for path in ("/instances", "/images/import"):
        assert api.refusal("POST", path, content=body)["status"] == 400


def test_a_bad_tag_is_refused(api: Api, busybox: str) -> None:
    for tag in ("", "white space", "a//b", "a:", "@sha256:0", "x" * 257, "-a"):
        refused = api.refusal("PATCH", f"/images/{busybox}/tag", json={"tag": tag})
        assert (refused["status"], refused["field"]) == (400, "tag")


def test_paths_that_leave_the_image_find_nothing(api: Api, busybox: str) -> None:
    for path in ("/../../etc/shadow", "/bin/../../../etc/shadow", "../etc/shadow"):
        answer = api.http.get(f"/inspect/{busybox}/download", params={"path": path})
        assert answer.status_code in {400, 404}
    assert api.refusal("GET", f"/inspect/{busybox}/list?path=/etc/passwd")["status"] == 422
    assert api.refusal("GET", f"/inspect/{busybox}/download?path=/etc")["status"] == 422


def test_each_permission_opens_its_own_doors_only(
    server: RunningServer, busybox: str, project: str, api_of: Callable[..., Api]
) -> None:
    doors = {
        "list": ("GET", "/images", None),
        "import": ("POST", "/images/import", {"registry": {"url": "docker://127.0.0.1:1/a"}}),
        "spawn": ("POST", "/instances", {"image": busybox, "command": ""}),
        "spawn_disposable": (
            "POST",
            "/instances",
            {"image": busybox, "command": "", "disposable": True},
        ),
        "cancel": ("DELETE", f"/operations/{UNKNOWN}", None),
        "set_image_tag": ("PATCH", f"/images/{busybox}/tag", {"tag": "doors"}),
    }
    for granted in doors:
        client = api_of(server, server.token(project, permissions=granted))
        for needed, (method, path, body) in doors.items():
            answer = client.http.request(method, path, json=body)
            if needed == granted:
                assert answer.status_code in {200, 201, 400, 404}, (granted, needed, answer.text)
            else:
                assert answer.status_code == 403, (granted, needed, answer.text)
                assert needed in answer.json()["error"]


def test_another_project_sees_nothing_of_it(
    server: RunningServer, busybox: str, api: Api, api_of: Callable[..., Api]
) -> None:
    file = api.upload(b"mine alone")
    ran = api.run(busybox, "true")
    stranger = api_of(server, server.token("somebody-else"))
    assert stranger.get("/images")["images"] == []
    for method, path in (
        ("GET", f"/operations/{ran.uuid}"),
        ("DELETE", f"/operations/{ran.uuid}"),
        ("GET", f"/inspect/{busybox}/"),
        ("GET", "/inspect/?tag=busybox:latest"),
        ("PATCH", f"/images/{busybox}/tag"),
    ):
        options = {"json": {"tag": "stolen"}} if method == "PATCH" else {}
        assert stranger.refusal(method, path, **options)["status"] == 404
    body = {"image": busybox, "command": "true"}
    assert stranger.refusal("POST", "/instances", json=body)["status"] == 404
    theirs = stranger.upload(b"mine alone")
    assert theirs != file
