"""Images for a real registry on loopback, whole ones and ones that must be refused."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.images.oci_layout import ImageConfig, OciLayout
from infra.images.registry import RunningRegistry

NO_CONFIG = ImageConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An image that a registry holds. Digests are of the blobs, diff_ids of the plain tars."""

    url: str
    manifest_digest: str
    config_digest: str
    layer_digests: tuple[str, ...]
    diff_ids: tuple[str, ...]


def publish(
    registry: RunningRegistry,
    repository: str,
    layers: Sequence[bytes],
    *,
    tag: str = "latest",
    config: ImageConfig = NO_CONFIG,
    diff_ids: Sequence[str] = (),
) -> Published:
    """Push an image made of these layers, each a plain tar of whatever content.

    `diff_ids` are what its config says instead of the truth.
    """
    with tempfile.TemporaryDirectory(prefix="contree-layout-") as directory:
        layout = OciLayout(Path(directory))
        blobs = [layout.add_layer(io.BytesIO(tar)) for tar in layers]
        if diff_ids:
            named = zip(blobs, diff_ids, strict=True)
            blobs = [replace(blob, diff_id=diff_id) for blob, diff_id in named]
        image = layout.add_image("image", blobs, config)
        url = registry.push(layout.root, "image", repository, tag)
    return Published(
        url=url,
        manifest_digest=image.manifest.digest,
        config_digest=image.config.digest,
        layer_digests=tuple(blob.digest for blob in blobs),
        diff_ids=tuple(blob.diff_id for blob in blobs),
    )


def damage(registry: RunningRegistry, digest: str) -> None:
    """Flip a bit in the middle of a blob, in the registry's own storage."""
    path = registry.blob_path(digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(registry: RunningRegistry, digest: str) -> None:
    """Take a blob away, in the registry's own storage."""
    registry.blob_path(digest).unlink()


def tar_of(members: Iterable[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    """Return a tar of files (name, content) and of entries as they stand, whatever they say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    """Return a hard link, or with tarfile.SYMTYPE a symbolic one."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


HOSTILE_LAYERS: dict[str, bytes] = {
    "name climbs out of the root": tar_of([("../../etc/passwd", b"root::0:0::/:/bin/sh\n")]),
    "name climbs in its middle": tar_of([("usr/../../etc/passwd", b"x")]),
    "hard link leads out of the root": tar_of([link("shadow", "../../etc/shadow")]),
    "hard link is absolute": tar_of([link("shadow", "/etc/shadow")]),
}
"""Layers that an import must refuse, by what is wrong with them."""
