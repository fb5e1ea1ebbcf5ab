"""An ImageSource without a registry: images are published to it in memory."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.registry.reference import parse_reference
from contree.app.images.image_source import Credentials, PulledImage, PulledLayer
from contree.domain.errors import RegistryFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedImage:
    """`layers` are plain tars. `credentials` are what a pull must bring, None for anyone."""

    layers: Sequence[bytes]
    env: Mapping[str, str]
    workdir: str
    credentials: Credentials | None = None


class FakeImageSource:
    """Holds images by canonical URL. `stalled` and `damaged` are URLs with that fault."""

    def __init__(self) -> None:
        self.images: dict[str, PublishedImage] = {}
        self.hosts: set[str] = set()
        self.stalled: set[str] = set()
        self.damaged: set[str] = set()

    def publish(self, url: str, image: PublishedImage) -> None:
        reference = parse_reference(url)
        self.hosts.add(reference.host)
        self.images[reference.url] = image

    def check_url(self, url: str) -> str:
        return parse_reference(url).url

    @asynccontextmanager
    async def pull(
        self, url: str, *, credentials: Credentials | None, timeout_s: float
    ) -> AsyncIterator[PulledImage]:
        reference = parse_reference(url)
        try:
            async with asyncio.timeout(timeout_s):
                if reference.url in self.stalled:
                    await asyncio.Event().wait()
        except TimeoutError:
            raise RegistryFailure(f"{reference.host}: the registry was too slow") from None
        if reference.host not in self.hosts:
            raise RegistryFailure(f"{reference.host}: the registry cannot be reached")
        image = self.images.get(reference.url)
        if image is None:
            raise RegistryFailure(f"{reference.host}: the registry does not have this image")
        given = credentials if credentials and credentials.username else None
        if image.credentials is not None and image.credentials != given:
            raise RegistryFailure(
                f"{reference.host}: the registry refused the credentials"
                if given
                else f"{reference.host}: the registry wants credentials"
            )
        if reference.url in self.damaged:
            raise RegistryFailure(f"{reference.host}: the image is damaged")
        with tempfile.TemporaryDirectory(prefix="contree-fake-pull-") as directory:
            yield _pulled(image, Path(directory))


def _pulled(image: PublishedImage, directory: Path) -> PulledImage:
    layers = []
    for tar in image.layers:
        diff_id = _digest(tar)
        blob = directory / diff_id.removeprefix("sha256:")
        blob.write_bytes(gzip.compress(tar, 1, mtime=0))
        layers.append(
            PulledLayer(
                blob=blob,
                packed_bytes=blob.stat().st_size,
                diff_id=diff_id,
            )
        )
    identity = repr((sorted(image.env.items()), image.workdir, [x.diff_id for x in layers]))
    return PulledImage(
        manifest_digest=_digest(b"manifest " + identity.encode()),
        config_digest=_digest(b"config " + identity.encode()),
        env=dict(image.env),
        workdir=image.workdir,
        layers=tuple(layers),
    )


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
