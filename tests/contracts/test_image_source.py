"""Built as one suite over two worlds: the fake, and real registries on loopback."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.source import RegistryImageSource
from contree.app.images.image_source import Credentials, ImageSource
from contree.domain.errors import InvalidFieldError, RegistryFailure
from infra.images.oci_layout import ImageConfig
from infra.images.registry import PASSWORD, USERNAME, RunningRegistry
from tests.fakes.image_source import FakeImageSource, PublishedImage
from tests.support.registry import damage, publish, tar_of

OWNER = Credentials(username=USERNAME, password=PASSWORD)
ENV = {"PATH": "/usr/bin:/bin", "GREETING": "a=b c"}
LOWER = tar_of([("etc/motd", b"below\n"), ("big", bytes(100_000))])
UPPER = tar_of([("etc/motd", b"above\n")])


class World(Protocol):
    """An ImageSource and the means to put images where it looks."""

    @property
    def source(self) -> ImageSource: ...

    def publish(
        self,
        repository: str,
        layers: Sequence[bytes],
        *,
        env: Mapping[str, str] | None = ...,
        workdir: str = ...,
        guarded: bool = ...,
    ) -> str: ...

    def damage(self, url: str) -> None: ...

    def stalled_url(self) -> str: ...

    def leftovers(self) -> Sequence[Path]: ...


class FakeWorld:
    def __init__(self) -> None:
        self.source = FakeImageSource()

    def publish(
        self,
        repository: str,
        layers: Sequence[bytes],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        guarded: bool = False,
    ) -> str:
        url = f"docker://{'guarded' if guarded else 'open'}.test/{repository}:latest"
        credentials = OWNER if guarded else None
        image = PublishedImage(
            layers=layers, env=env or {}, workdir=workdir, credentials=credentials
        )
        self.source.publish(url, image)
        return url

    def damage(self, url: str) -> None:
        self.source.damaged.add(url)

    def stalled_url(self) -> str:
        url = "docker://stalled.test/some/image:latest"
        self.source.stalled.add(url)
        return url

    def leftovers(self) -> Sequence[Path]:
        return ()


class RegistryWorld:
    def __init__(
        self, work_dir: Path, open_to_all: RunningRegistry, guarded: RunningRegistry
    ) -> None:
        self.source = RegistryImageSource(work_dir, AddressPolicy("127.0.0.0/8"))
        self._work_dir = work_dir
        self._open, self._guarded = open_to_all, guarded
        self._layers: dict[str, tuple[str, ...]] = {}
        self._silent = socket.socket()

    def publish(
        self,
        repository: str,
        layers: Sequence[bytes],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        guarded: bool = False,
    ) -> str:
        registry = self._guarded if guarded else self._open
        config = ImageConfig(env=env or {}, workdir=workdir)
        published = publish(registry, repository, layers, config=config)
        self._layers[published.url] = published.layer_digests
        return published.url

    def damage(self, url: str) -> None:
        damage(self._open, self._layers[url][0])

    def stalled_url(self) -> str:
        self._silent.bind(("127.0.0.1", 0))
        self._silent.listen()
        return f"docker://127.0.0.1:{self._silent.getsockname()[1]}/some/image:latest"

    def leftovers(self) -> Sequence[Path]:
        return tuple(self._work_dir.iterdir())

    def close(self) -> None:
        self._silent.close()


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    real = RegistryWorld(
        tmp_path,
        request.getfixturevalue("registry"),
        request.getfixturevalue("guarded_registry"),
    )
    yield real
    assert real.leftovers() == ()
    real.close()


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(RegistryFailure) as caught:
        yield
    assert any(word in str(caught.value) for word in words), caught.value
    assert PASSWORD not in str(caught.value)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def _pull_nothing(
    world: World, url: str, credentials: Credentials | None = None, timeout_s: float = 60
) -> None:
    async with world.source.pull(url, credentials=credentials, timeout_s=timeout_s):
        pytest.fail("the pull succeeded")


async def test_layers_arrive_bottom_to_top_as_published(world: World) -> None:
    url = world.publish("a/layered", [LOWER, UPPER])
    async with world.source.pull(url, credentials=None, timeout_s=60) as image:
        assert [layer.diff_id for layer in image.layers] == [_digest(LOWER), _digest(UPPER)]
        assert [gzip.decompress(layer.blob.read_bytes()) for layer in image.layers] == [
            LOWER,
            UPPER,
        ]
        sizes = [layer.blob.stat().st_size for layer in image.layers]
        assert [layer.packed_bytes for layer in image.layers] == sizes


async def test_environment_and_workdir_come_from_the_config(world: World) -> None:
    url = world.publish("a/configured", [LOWER], env=ENV, workdir="/srv/app/")
    async with world.source.pull(url, credentials=None, timeout_s=60) as image:
        assert image.env == ENV
        assert image.workdir.rstrip("/") == "/srv/app"


async def test_an_image_may_have_no_layers(world: World) -> None:
    url = world.publish("a/empty", [])
    async with world.source.pull(url, credentials=None, timeout_s=60) as image:
        assert image.layers == ()


async def test_an_unchanged_image_has_the_same_digests_again(world: World) -> None:
    url = world.publish("a/unchanged", [LOWER])
    other = world.publish("a/other", [LOWER], env=ENV)
    seen = []
    for each in (url, url, other):
        async with world.source.pull(each, credentials=None, timeout_s=60) as image:
            seen.append((image.config_digest, image.manifest_digest))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


async def test_files_go_when_the_context_ends(world: World) -> None:
    url = world.publish("a/brief", [LOWER])
    async with world.source.pull(url, credentials=None, timeout_s=60) as image:
        blob = image.layers[0].blob
        assert blob.exists()
    assert not blob.exists()


async def test_files_go_when_the_context_fails(world: World) -> None:
    url = world.publish("a/failing", [LOWER])
    blobs: list[Path] = []

    async def pull_and_fail() -> None:
        async with world.source.pull(url, credentials=None, timeout_s=60) as image:
            blobs.append(image.layers[0].blob)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await pull_and_fail()
    assert not blobs[0].exists()


async def test_an_absent_image_is_a_failure(world: World) -> None:
    url = world.publish("a/present", [LOWER]).replace("present", "absent")
    with refused("does not have this image"):
        await _pull_nothing(world, url)


async def test_credentials_open_a_guarded_registry(world: World) -> None:
    url = world.publish("a/guarded", [LOWER], guarded=True)
    async with world.source.pull(url, credentials=OWNER, timeout_s=60) as image:
        assert image.layers[0].diff_id == _digest(LOWER)


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (None, "wants credentials"),
        (Credentials(username="", password=""), "wants credentials"),
        (Credentials(username=USERNAME, password="wrong"), "refused the credentials"),
        (Credentials(username="nobody", password=PASSWORD), "refused the credentials"),
    ],
    ids=["none", "empty", "wrong password", "wrong name"],
)
async def test_wrong_credentials_are_a_failure(
    world: World, credentials: Credentials | None, words: str
) -> None:
    url = world.publish("a/guarded", [LOWER], guarded=True)
    with refused(words):
        await _pull_nothing(world, url, credentials)


async def test_a_damaged_layer_is_a_failure(world: World) -> None:
    # Unlike any other layer of this suite: the registry keeps equal ones once.
    url = world.publish("a/damaged", [tar_of([("only-here", bytes(range(256)) * 40)])])
    world.damage(url)
    with refused("is damaged"):
        await _pull_nothing(world, url)


async def test_an_unreachable_registry_is_a_failure(world: World) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can answer there
        bound.bind(("127.0.0.1", 0))
        url = f"docker://127.0.0.1:{bound.getsockname()[1]}/some/image"
        with refused("cannot be reached"):
            await _pull_nothing(world, url)


async def test_a_silent_registry_is_a_failure_after_the_timeout(world: World) -> None:
    with refused("too slow"):
        await _pull_nothing(world, world.stalled_url(), timeout_s=0.3)


async def test_cancelling_a_pull_ends_it(world: World) -> None:
    pull = asyncio.create_task(_pull_nothing(world, world.stalled_url()))
    await asyncio.sleep(0.2)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull


async def test_pulls_run_beside_each_other(world: World) -> None:
    url = world.publish("a/shared", [LOWER, UPPER])

    async def pull() -> int:
        async with world.source.pull(url, credentials=None, timeout_s=60) as image:
            return len(image.layers)

    assert await asyncio.gather(*(pull() for _ in range(4))) == [2] * 4


def test_a_checked_url_is_canonical_and_stays_so(world: World) -> None:
    url = world.source.check_url("oci://docker.io/busybox")
    assert url == "docker://docker.io/library/busybox:latest"
    assert world.source.check_url(url) == url


def test_a_url_of_another_form_is_refused(world: World) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        world.source.check_url("https://example.org/busybox")
    assert caught.value.field == "registry.url"
