"""One pull: an image's manifest, config and layers from a registry to a directory.

connect -> manifest, through indexes to linux/amd64 -> config -> layers, a few at a time
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.client import RegistryClient, bounded, session
from contree.adapters.registry.download import download
from contree.adapters.registry.failures import refusal_of
from contree.adapters.registry.index import DEPTH_MAX, choose
from contree.adapters.registry.manifest import (
    CONFIG_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPES,
    Descriptor,
    ImageManifest,
    digest_of,
    read_config,
    read_document,
)
from contree.adapters.registry.reference import RegistryReference
from contree.app.images.image_source import Credentials, PulledImage, PulledLayer
from contree.domain.errors import ContreeError, RegistryFailure

DOWNLOADS = 3
"""At once, of one image; what Docker does."""


async def pull_image(
    reference: RegistryReference,
    directory: Path,
    *,
    credentials: Credentials | None,
    policy: AddressPolicy,
    bytes_max: int,
    timeout_s: float,
) -> PulledImage:
    """Fetch the image into `directory`; `bytes_max` bounds the sum of its compressed layers.

    Raises RegistryFailure, StorageFullError.
    """
    try:
        async with asyncio.timeout(timeout_s), session(policy) as http:
            client = RegistryClient(http, reference, credentials=credentials, policy=policy)
            await client.connect()
            return await _image(client, reference, directory, bytes_max=bytes_max)
    except TimeoutError:
        raise RegistryFailure(
            f"{reference.host}: the registry was too slow, the pull took longer than"
            f" {timeout_s:g} s"
        ) from None


async def _image(
    client: RegistryClient, reference: RegistryReference, directory: Path, *, bytes_max: int
) -> PulledImage:
    manifest_digest, manifest = await _manifest(client, reference)
    total_bytes = sum(layer.size for layer in manifest.layers)
    if total_bytes > bytes_max:
        raise RegistryFailure(f"the image is {total_bytes} bytes, at most {bytes_max} are allowed")
    if manifest.config.size > CONFIG_BYTES_MAX:
        raise RegistryFailure(f"the image's config is larger than {CONFIG_BYTES_MAX} bytes")
    config_path = directory / "config"
    await download(client, manifest.config, config_path)
    config = read_config(config_path.read_bytes(), layer_count=len(manifest.layers))
    blobs = {layer.digest: layer for layer in manifest.layers}
    await _download_all(client, list(blobs.values()), directory)
    return PulledImage(
        manifest_digest=manifest_digest,
        config_digest=manifest.config.digest,
        env=config.env,
        workdir=config.workdir,
        layers=tuple(
            PulledLayer(blob=directory / layer.hexdigest, packed_bytes=layer.size, diff_id=diff_id)
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        ),
    )


async def _manifest(
    client: RegistryClient, reference: RegistryReference
) -> tuple[str, ImageManifest]:
    """Return the manifest for linux/amd64 and its digest."""
    wanted = reference.digest or reference.tag
    for _ in range(DEPTH_MAX):
        content = await _fetched(client, wanted)
        digest = digest_of(content)
        if wanted.startswith("sha256:") and digest != wanted:
            raise RegistryFailure(
                f"{client.host}: the image is damaged: its manifest does not have its digest"
            )
        document = read_document(content)
        if isinstance(document, ImageManifest):
            return digest, document
        wanted = choose(document).digest
    raise RegistryFailure(f"the image is an index in an index, over {DEPTH_MAX} deep")


async def _fetched(client: RegistryClient, what: str) -> bytes:
    headers = {"Accept": ", ".join(MANIFEST_TYPES)}
    async with client.fetch(f"manifests/{what}", headers=headers) as answer:
        if answer.status == HTTPStatus.NOT_FOUND:
            raise RegistryFailure(f"{client.host}: the registry does not have this image")
        if answer.status != HTTPStatus.OK:
            raise refusal_of(answer.status, client.host, has_credentials=client.has_credentials)
        return await bounded(answer, MANIFEST_BYTES_MAX, client.host)


async def _download_all(client: RegistryClient, blobs: Sequence[Descriptor], private: Path) -> None:
    places = asyncio.Semaphore(DOWNLOADS)

    async def one(blob: Descriptor) -> None:
        async with places:
            await download(client, blob, private / blob.hexdigest)

    try:
        async with asyncio.TaskGroup() as group:
            for blob in blobs:
                group.create_task(one(blob))
    except* (ContreeError, OSError) as failed:
        raise failed.exceptions[0] from None
