"""Built on a real registry that holds an index of images for several machines."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from contree.adapters.registry.addresses import AddressPolicy
from contree.adapters.registry.source import RegistryImageSource
from contree.domain.errors import RegistryFailure
from infra.images.oci_layout import ImageConfig, OciLayout
from infra.images.registry import RunningRegistry
from tests.support.registry import tar_of

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def _publish_index(
    registry: RunningRegistry, directory: Path, repository: str, architectures: Sequence[str]
) -> str:
    layout = OciLayout(directory)
    entries = []
    for architecture in architectures:
        layer = layout.add_layer(io.BytesIO(tar_of([("machine", architecture.encode())])))
        image = layout.add_image(
            architecture, [layer], ImageConfig(architecture=architecture)
        ).manifest
        platform = {"os": "linux", "architecture": architecture}
        entries.append({**image.as_json(), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
    layout.add_manifest("index", index)
    return registry.push(layout.root, "index", repository)


async def test_an_index_gives_its_amd64_image(registry: RunningRegistry, tmp_path: Path) -> None:
    url = _publish_index(registry, tmp_path / "layout", "p/many", ["arm64", "amd64", "s390x"])
    source = RegistryImageSource(tmp_path / "work", AddressPolicy("127.0.0.1"))
    expected = hashlib.sha256(tar_of([("machine", b"amd64")])).hexdigest()
    async with source.pull(url, credentials=None, timeout_s=60) as image:
        assert [layer.diff_id for layer in image.layers] == [f"sha256:{expected}"]


async def test_an_index_without_amd64_is_refused(registry: RunningRegistry, tmp_path: Path) -> None:
    url = _publish_index(registry, tmp_path / "layout", "p/others", ["arm64", "s390x"])
    source = RegistryImageSource(tmp_path / "work", AddressPolicy("127.0.0.1"))
    with pytest.raises(RegistryFailure, match="it has linux/arm64, linux/s390x"):
        async with source.pull(url, credentials=None, timeout_s=60):
            pytest.fail("the pull succeeded")


async def test_a_digest_names_one_image_for_ever(registry: RunningRegistry, tmp_path: Path) -> None:
    layout = OciLayout(tmp_path / "layout")
    layer = layout.add_layer(io.BytesIO(tar_of([("a", b"first")])))
    image = layout.add_image("image", [layer])
    url = registry.push(layout.root, "image", "p/pinned")
    pinned = url.removesuffix(":latest") + "@" + image.manifest.digest
    source = RegistryImageSource(tmp_path / "work", AddressPolicy("127.0.0.1"))
    async with source.pull(pinned, credentials=None, timeout_s=60) as pulled:
        assert pulled.manifest_digest == image.manifest.digest
        assert pulled.config_digest == image.config.digest
