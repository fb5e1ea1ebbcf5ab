"""Imports that must fail, against a real registry: each says why, and none leaves anything."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.images.registry import PASSWORD, USERNAME, RunningRegistry
from infra.images.rootfs import small_image
from tests.acceptance.api import Api
from tests.support.registry import HOSTILE_LAYERS, damage, lose, publish, tar_of
from tests.support.server import RunningServer, files_below


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody can meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def layers_in(server: RunningServer) -> set[Path]:
    return files_below(server.data_dir / "layers")


def sha256_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def errors_of(api: Api, urls: dict[str, str]) -> dict[str, str]:
    """Import all at once; return each one's error. All must fail."""
    requested = {name: api.request_import(url, tag="broken") for name, url in urls.items()}
    ended = {name: api.wait(uuid) for name, uuid in requested.items()}
    assert {name for name, operation in ended.items() if operation["status"] != "FAILED"} == set()
    assert all(operation["result"] is None for operation in ended.values())
    for operation in ended.values():
        (last,) = api.events(operation["uuid"])
        assert (last["type"], last["data"]["status"]) == ("completion", "FAILED")
    return {name: str(operation["error"]) for name, operation in ended.items()}


def test_what_the_registry_does_not_give(
    api: Api, server: RunningServer, registry: RunningRegistry, closed_port: int, busybox: str
) -> None:
    before = layers_in(server)
    damaged = publish(registry, "broken/damaged", [tar_of([("damaged", b"d" * 5000)])])
    damage(registry, damaged.layer_digests[0])
    lost = publish(registry, "broken/lost", [tar_of([("lost", b"l" * 5000)])])
    lose(registry, lost.layer_digests[0])
    errors = errors_of(
        api,
        {
            "unreachable": f"docker://127.0.0.1:{closed_port}/a/b:latest",
            "no such image": registry.url("no/such/image"),
            "no such tag": registry.url("broken/damaged", "other"),
            "damaged": damaged.url,
            "lost": lost.url,
        },
    )
    assert "cannot be reached" in errors["unreachable"]
    assert "does not have this image" in errors["no such image"]
    assert "does not have this image" in errors["no such tag"]
    assert "damaged" in errors["damaged"]
    assert "damaged" in errors["lost"]
    assert layers_in(server) == before
    assert api.refusal("GET", "/inspect/?tag=broken")["status"] == 404


def test_layers_that_reach_out_of_the_root_are_refused(
    api: Api, server: RunningServer, registry: RunningRegistry, busybox: str
) -> None:
    before = layers_in(server)
    urls = {
        name: publish(registry, f"hostile/{number}", [tar]).url
        for number, (name, tar) in enumerate(HOSTILE_LAYERS.items())
    }
    errors = errors_of(api, urls)
    for name, error in errors.items():
        assert "passwd" in error or "shadow" in error, name
    assert layers_in(server) == before
    assert "passwd" not in {path.name for path in files_below(server.data_dir)}


def test_a_layer_of_another_project_is_not_had_by_its_digest(
    api: Api,
    server: RunningServer,
    registry: RunningRegistry,
    api_of: Callable[[RunningServer, str], Api],
) -> None:
    secret = publish(registry, "theirs/secret", [tar_of([("secret", b"theirs alone")])])
    theirs = api.import_image(secret.url)
    before = layers_in(server)
    thief = api_of(server, server.token("thief"))
    bogus = publish(registry, "thief/empty", [tar_of([])], diff_ids=secret.diff_ids)
    error = errors_of(thief, {"by digest": bogus.url})["by digest"]
    assert error == (f"the layer's digest is {sha256_of(tar_of([]))}, not {secret.diff_ids[0]}")
    assert layers_in(server) == before
    assert thief.get("/images")["images"] == []
    # Whoever has the bytes has the layer; who had it first keeps it.
    copied = publish(registry, "thief/copy", [tar_of([("secret", b"theirs alone")])])
    assert copied.diff_ids == secret.diff_ids
    assert list(thief.listing(thief.import_image(copied.url), "/")) == ["secret"]
    assert list(api.listing(theirs, "/")) == ["secret"]


def test_credentials_wrong_right_and_never_shown(
    api: Api, server: RunningServer, guarded_registry: RunningRegistry
) -> None:
    image = small_image()
    url = guarded_registry.push(image.layout, image.tag, image.repository)
    none = api.wait(api.request_import(url))
    assert "wants credentials" in none["error"]
    assert "credentials" not in none["metadata"]["registry"]
    wrong = {"username": USERNAME, "password": "wrong-horse-battery"}
    refused = api.wait(api.request_import(url, credentials=wrong))
    assert "refused the credentials" in refused["error"]
    right = {"username": USERNAME, "password": PASSWORD}
    uuid = api.request_import(url, credentials=right, tag="guarded")
    ended = api.wait(uuid)
    assert ended["status"] == "SUCCESS"
    shown = {"username": USERNAME, "password": "<MASKED>"}
    assert ended["metadata"]["registry"]["credentials"] == shown
    assert PASSWORD not in server.log_text
    assert "wrong-horse-battery" not in server.log_text


def test_a_registry_that_hangs_is_given_up_at_the_timeout(
    api: Api, server: RunningServer, silent_port: int
) -> None:
    url = f"docker://127.0.0.1:{silent_port}/a/b:latest"
    ended = api.wait(api.request_import(url, timeout=1))
    assert ended["status"] == "FAILED"
    assert "1 s" in ended["error"]
    assert not list((server.data_dir / "pulls").iterdir())


def test_a_pull_is_cancelled(api: Api, server: RunningServer, silent_port: int) -> None:
    uuid = api.request_import(f"docker://127.0.0.1:{silent_port}/a/b:latest")
    assert api.wait_for(uuid, {"EXECUTING"})["status"] == "EXECUTING"
    assert api.cancel(uuid) == 202
    assert api.wait(uuid)["status"] == "CANCELLED"
    assert not list((server.data_dir / "pulls").iterdir())


def test_the_same_remote_image_is_the_same_image_and_the_tag_moves(
    api: Api, registry: RunningRegistry, busybox: str, busybox_url: str
) -> None:
    again = api.wait(api.request_import(busybox_url, tag="moving:1"))
    assert again["result"] == {"image": busybox, "tag": "moving:1"}
    other = publish(registry, "other/image", [tar_of([("other", b"o")])]).url
    moved = api.wait(api.request_import(other, tag="moving:1"))
    assert moved["result"]["image"] != busybox
    found = api.http.get("/inspect/", params={"tag": "moving:1"})
    assert (found.status_code, found.headers["Location"]) == (302, f"{moved['result']['image']}/")


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1/a", "docker://", "docker://host/UPPER", "docker:///a b"]
)
def test_a_url_that_names_no_image_is_refused(api: Api, url: str) -> None:
    refused = api.refusal("POST", "/images/import", json={"registry": {"url": url}})
    assert (refused["status"], refused["field"]) == (400, "registry.url")
