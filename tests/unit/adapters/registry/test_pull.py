"""Pulls from a registry that does what no well-behaved one does; each says why it fails."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from contree.adapters.registry import download
from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.manifest import digest_of
from contree.adapters.registry.source import RegistryImageSource
from contree.app.images.image_source import Credentials, PulledImage
from contree.domain.errors import RegistryFailure, StorageFullError
from tests.support.odd_registry import (
    AMD64,
    LAYER_GZIP,
    MANIFEST,
    Answer,
    OddRegistry,
    gzipped,
    odd_registry,
)
from tests.support.registry import tar_of

TAR = tar_of([("etc/motd", b"hello\n"), ("noise", os.urandom(300_000))])
ME = Credentials(username="me", password="pässword of me")
BASIC = "Basic " + base64.b64encode(f"me:{ME.password}".encode()).decode()
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
async def registry() -> AsyncIterator[OddRegistry]:
    async with odd_registry() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> RegistryImageSource:
    return RegistryImageSource(tmp_path / "pulls", AddressPolicy("127.0.0.0/8"))


async def pulled(
    source: RegistryImageSource, url: str, credentials: Credentials | None = None
) -> PulledImage:
    """Pull and compare every layer with its digest."""
    async with source.pull(url, credentials=credentials, timeout_s=60) as image:
        for layer in image.layers:
            content = layer.blob.read_bytes()
            assert len(content) == layer.packed_bytes
            plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            assert digest_of(plain) == layer.diff_id
        return image


async def failure(
    source: RegistryImageSource,
    url: str,
    credentials: Credentials | None = None,
    timeout_s: float = 60,
) -> str:
    with pytest.raises(RegistryFailure) as caught:
        async with source.pull(url, credentials=credentials, timeout_s=timeout_s):
            pytest.fail("the pull succeeded")
    assert ME.password not in str(caught.value)
    return str(caught.value)


# -- what an image may look like ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pack", "layer_type", "manifest_type"),
    [
        (bytes, LAYER_GZIP, MANIFEST),
        (gzipped, "application/vnd.oci.image.layer.v1.tar", MANIFEST),
        (gzipped, LAYER_GZIP, DOCKER_MANIFEST),
        (bytes, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", DOCKER_MANIFEST),
        (gzipped, LAYER_GZIP, "application/json"),
    ],
)
async def test_media_types_may_disagree_with_the_content(
    registry: OddRegistry,
    source: RegistryImageSource,
    pack: Callable[[bytes], bytes],
    layer_type: str,
    manifest_type: str,
) -> None:
    described = registry.image(
        "a/b", [TAR], pack=pack, layer_type=layer_type, manifest_type=manifest_type
    )
    image = await pulled(source, registry.url("a/b"))
    assert image.manifest_digest == described["digest"]
    assert [layer.diff_id for layer in image.layers] == [digest_of(TAR)]


async def test_an_index_in_an_index_is_followed(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    other = registry.image("a/b", [tar_of([("x", b"arm")])], tag="arm", architecture="arm64")
    wanted = registry.image("a/b", [TAR], tag="amd")
    arm = {"os": "linux", "architecture": "arm64"}
    inner = registry.index(
        "a/b", [{**other, "platform": arm}, {**wanted, "platform": AMD64}], tag="inner"
    )
    registry.index("a/b", [{**inner, "platform": AMD64}])
    assert (await pulled(source, registry.url("a/b"))).manifest_digest == wanted["digest"]
    registry.index("a/b", [{**other, "platform": arm}, inner], tag="unsaid")
    assert (await pulled(source, registry.url("a/b", "unsaid"))).manifest_digest == wanted["digest"]


async def test_an_index_without_an_end_is_refused(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    entry = registry.image("a/b", [TAR], tag="image")
    for depth in range(6):
        entry = registry.index("a/b", [{**entry, "platform": AMD64}], tag=f"depth{depth}")
    assert "over 4 deep" in await failure(source, registry.url("a/b", "depth5"))


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [(["v3", "v2"], 1), (["v2", "", "v1"], 1), (["v4"], 0), (["v9", "v3"], 1)],
)
async def test_the_variant_that_asks_least_of_the_cpu_is_taken(
    registry: OddRegistry, source: RegistryImageSource, variants: list[str], chosen: int
) -> None:
    entries = [
        {
            **registry.image("a/b", [TAR], tag=f"t{number}", config={"Env": [f"N={number}"]}),
            "platform": {**AMD64, "variant": variant},
        }
        for number, variant in enumerate(variants)
    ]
    registry.index("a/b", entries)
    assert (await pulled(source, registry.url("a/b"))).env == {"N": str(chosen)}


async def test_attestations_are_no_platform(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    image = registry.image("a/b", [TAR], tag="image")
    unknown = {"os": "unknown", "architecture": "unknown"}
    registry.index("a/b", [{**image, "platform": unknown}])
    assert "no variant for linux/amd64; it has none" in await failure(source, registry.url("a/b"))


async def test_a_layer_may_be_there_several_times_and_is_fetched_once(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    registry.image("a/b", [TAR, TAR, TAR])
    assert len((await pulled(source, registry.url("a/b"))).layers) == 3
    fetched = [path for path, _ in registry.requests if "/blobs/" in path]
    assert len(fetched) == len(set(fetched)) == 2


async def test_five_hundred_layers_are_an_image(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    tars = [tar_of([(f"f{number}", b"x")]) for number in range(500)]
    registry.image("a/b", tars)
    image = await pulled(source, registry.url("a/b"))
    assert [layer.diff_id for layer in image.layers] == [digest_of(tar) for tar in tars]


# -- damage -------------------------------------------------------------------------------------


async def test_an_image_of_a_digest_must_have_it(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    described = registry.image("a/b", [TAR])
    path = f"/v2/a/b/manifests/{described['digest']}"
    registry.contents[path] = registry.contents[path][0] + b" ", MANIFEST
    url = f"docker://{registry.host}/a/b@{described['digest']}"
    assert "its manifest does not have its digest" in await failure(source, url)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content + b"more", "is not of its stated size"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "does not have its digest"),
        (lambda content: content[:100], "is not of its stated size"),
    ],
)
async def test_a_blob_must_be_what_the_manifest_says(
    registry: OddRegistry,
    source: RegistryImageSource,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    described = registry.image("a/b", [TAR])
    manifest = json.loads(registry.contents["/v2/a/b/manifests/latest"][0])
    for blob in (manifest["config"], manifest["layers"][0]):
        path = f"/v2/a/b/blobs/{blob['digest']}"
        content, media_type = registry.contents[path]
        registry.contents[path] = change(content), media_type
        text = await failure(source, registry.url("a/b"))
        assert words in text
        assert "damaged" in text
        registry.contents[path] = content, media_type
    assert described["digest"] == (await pulled(source, registry.url("a/b"))).manifest_digest


async def test_an_image_over_the_bound_is_refused_before_its_layers_come(
    registry: OddRegistry, tmp_path: Path
) -> None:
    source = RegistryImageSource(tmp_path, AddressPolicy("127.0.0.1"), image_bytes_max=1000)
    registry.image("a/b", [TAR])
    assert "at most 1000 are allowed" in await failure(source, registry.url("a/b"))
    assert not [path for path, _ in registry.requests if "/blobs/" in path]
    assert list(tmp_path.iterdir()) == []


async def test_an_endless_manifest_is_cut(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(1024**2))

    registry.answers["/v2/a/b/manifests/latest"] = endless
    assert "larger than 4194304 bytes" in await failure(source, registry.url("a/b"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "wants credentials"),
        (418, "unexpected status 418"),
        (429, "limits the rate"),
        (500, "error of its own (500)"),
        (503, "error of its own (503)"),
    ],
)
async def test_each_status_has_its_words(
    registry: OddRegistry, source: RegistryImageSource, status: int, words: str
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<html>")

    registry.answers["/v2/a/b/manifests/latest"] = answer
    text = await failure(source, registry.url("a/b"))
    assert words in text
    assert text.startswith(registry.host)


# -- resumption and patience --------------------------------------------------------------------


def breaking_off(content: bytes, pieces: list[int]) -> Answer:
    """Answer with so many bytes of what is asked for, then hang up; at last with all."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=")[:-1])
        rest = content[start:]
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(rest)
        await response.prepare(request)
        if pieces:
            await response.write(rest[: pieces.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(rest)
        return response

    return answer


async def test_a_download_that_breaks_off_goes_on_where_it_was(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    registry.image("a/b", [TAR])
    packed = gzipped(TAR)
    path = next(p for p in registry.contents if digest_of(packed) in p)
    registry.answers[path] = breaking_off(packed, [100_000, 1, 150_000])
    await pulled(source, registry.url("a/b"))
    ranges = [headers.get("Range") for p, headers in registry.requests if p == path]
    starts = [int(r.removeprefix("bytes=")[:-1]) for r in ranges[1:] if r is not None]
    assert ranges[0] is None
    assert len(starts) == 3
    assert 0 < starts[0] < starts[1] < starts[2] <= 250_001


async def test_a_download_that_brings_nothing_more_is_given_up(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    registry.image("a/b", [TAR])
    packed = gzipped(TAR)
    path = next(p for p in registry.contents if digest_of(packed) in p)
    registry.answers[path] = breaking_off(packed, [1000, 0, 0, 0])
    assert "broke off in the middle" in await failure(source, registry.url("a/b"))
    assert len([p for p, _ in registry.requests if p == path]) == 2


async def test_a_registry_that_drips_is_given_up(
    registry: OddRegistry, source: RegistryImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "GRACE_S", 0.3)
    registry.image("a/b", [TAR])
    path = next(p for p in registry.contents if digest_of(gzipped(TAR)) in p)

    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.02)

    registry.answers[path] = drip
    assert "too slow" in await failure(source, registry.url("a/b"))


# -- who is told what ---------------------------------------------------------------------------


def tokens(registry: OddRegistry, *, wanted: str | None) -> None:
    """Want a token of a realm, which wants `wanted` as Authorization."""

    async def realm(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != wanted:
            return web.json_response({"errors": []}, status=401)
        scope, service = request.query["scope"], request.query["service"]
        return web.json_response({"access_token": f"t-{scope}-{service}"})

    async def before(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer t-repository:a/b:pull-here":
            return web.Response(status=100)
        challenge = f'Bearer realm="http://{registry.host}/realm?x=1",service="here"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    registry.answers["/realm"] = realm
    registry.before = before


@pytest.mark.parametrize("credentials", [None, ME])
async def test_a_token_of_a_realm_opens_the_repository(
    registry: OddRegistry, source: RegistryImageSource, credentials: Credentials | None
) -> None:
    registry.image("a/b", [TAR])
    tokens(registry, wanted=None if credentials is None else BASIC)
    await pulled(source, registry.url("a/b"), credentials)
    assert len([path for path, _ in registry.requests if path == "/realm"]) == 1


async def test_a_realm_that_refuses_says_whose_move_it_is(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    registry.image("a/b", [TAR])
    tokens(registry, wanted="Basic of-somebody-else")
    assert "wants credentials" in await failure(source, registry.url("a/b"))
    assert "refused the credentials" in await failure(source, registry.url("a/b"), ME)


async def test_a_redirect_to_another_host_takes_no_credentials_along(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    registry.image("a/b", [TAR])
    tokens(registry, wanted=BASIC)
    path = next(p for p in registry.contents if digest_of(gzipped(TAR)) in p)
    async with odd_registry() as storage:
        storage.contents["/signed"] = registry.contents[path]

        async def redirect(_: web.Request) -> web.StreamResponse:
            location = f"http://{storage.host}/signed?X-Signature=abc"
            return web.Response(status=307, headers={"Location": location})

        registry.answers[path] = redirect
        await pulled(source, registry.url("a/b"), ME)
        assert [path for path, _ in storage.requests] == ["/signed"]
        assert all("Authorization" not in headers for _, headers in storage.requests)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://10.1.2.3/x", "10.1.2.3: this is no public address"),
        ("http://[fe80::1]/x", "no public address"),
        ("https://169.254.169.254/latest/meta-data", "no public address"),
        ("file:///etc/passwd", "without HTTPS"),
        ("http://[", "redirects to no address"),
        ("/v2/a/b/manifests/latest", "redirects without an end"),
    ],
)
async def test_a_registry_cannot_send_us_anywhere(
    registry: OddRegistry, source: RegistryImageSource, location: str, words: str
) -> None:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    registry.answers["/v2/a/b/manifests/latest"] = redirect
    assert words in await failure(source, registry.url("a/b"))


async def test_a_realm_cannot_be_inside_either(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    async def challenge(_: web.Request) -> web.StreamResponse:
        value = 'Bearer realm="https://10.0.0.1/secrets"'
        return web.Response(status=401, headers={"WWW-Authenticate": value})

    registry.answers["/v2/"] = challenge
    assert "10.0.0.1: this is no public address" in await failure(source, registry.url("a/b"), ME)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "[::1]:9", "10.0.0.1:9"])
async def test_without_leave_only_public_registries_are_asked(tmp_path: Path, host: str) -> None:
    source = RegistryImageSource(tmp_path, AddressPolicy())
    text = await failure(source, f"docker://{host}/a/b")
    assert "no public address; an operator can allow" in text
    assert "import_allow" in text


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä", 7, None])
async def test_a_token_of_no_use_is_refused(
    registry: OddRegistry, source: RegistryImageSource, token: object
) -> None:
    tokens(registry, wanted=None)

    async def realm(_: web.Request) -> web.StreamResponse:
        return web.json_response({"token": token})

    registry.answers["/realm"] = realm
    assert "token is not valid" in await failure(source, registry.url("a/b"))


async def test_a_user_name_that_the_protocol_cannot_carry_is_refused(
    registry: OddRegistry, source: RegistryImageSource
) -> None:
    odd = Credentials(username="a:b", password="c")
    assert "registry.credentials.username" in await failure(source, registry.url("a/b"), odd)


async def test_a_full_disk_is_this_machines_error(
    registry: OddRegistry, source: RegistryImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers ENOSPC to every write, as a full disk does."""
    registry.image("a/b", [TAR])
    open_file = Path.open
    monkeypatch.setattr(
        Path, "open", lambda *_: open_file(Path("/dev/full"), "wb", buffering=0), raising=True
    )
    with pytest.raises(StorageFullError, match="no room left"):
        async with source.pull(registry.url("a/b"), credentials=None, timeout_s=60):
            pytest.fail("the pull succeeded")


def test_sweep_removes_what_a_killed_worker_left(tmp_path: Path) -> None:
    (tmp_path / "pull-abc").mkdir(parents=True)
    (tmp_path / "pull-abc" / "config").write_text("{}")
    RegistryImageSource(tmp_path, AddressPolicy()).sweep()
    assert list(tmp_path.iterdir()) == []
