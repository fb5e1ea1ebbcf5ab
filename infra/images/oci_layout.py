"""Writes OCI image layouts (OCI image-spec 1.0, image-layout.md) with nothing but Python.

For the root filesystems of the demo, the benches and the tests. Equal tars give equal digests:
gzip carries no time, JSON is canonical. It does not judge what it packs: tests use it to make
images that must be refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
EPOCH = "1970-01-01T00:00:00Z"
CHUNK_BYTES = 1024 * 1024
GZIP_LEVEL = 1
"""Pulled over loopback and stored uncompressed: time matters here, size does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob of the layout, as OCI describes one. `diff_id` only for layers."""

    media_type: str
    digest: str
    size_bytes: int
    diff_id: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image carries beside its files."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenImage:
    """The two blobs that make an image of its layers."""

    manifest: Descriptor
    config: Descriptor


class OciLayout:
    """A layout under `root`, made when absent; several tags may share its blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob_path(self, digest: str) -> Path:
        """Return where the blob is; digest is `sha256:<hex>`."""
        return self._blobs / digest.removeprefix("sha256:")

    def add_blob(self, content: bytes, media_type: str) -> Descriptor:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blob_path(digest).write_bytes(content)
        return Descriptor(media_type=media_type, digest=digest, size_bytes=len(content))

    def add_layer(self, tar: BinaryIO) -> Descriptor:
        """Compress the tar, read to its end, into a layer blob."""
        uncompressed = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self._blobs)
        partial = Path(name)
        try:
            with (
                os.fdopen(handle, "wb") as raw,
                gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed,
            ):
                while chunk := tar.read(CHUNK_BYTES):
                    uncompressed.update(chunk)
                    packed.write(chunk)
            with partial.open("rb") as written:
                digest = "sha256:" + hashlib.file_digest(written, "sha256").hexdigest()
            size_bytes = partial.stat().st_size
            partial.chmod(0o644)
            partial.replace(self.blob_path(digest))
        finally:
            partial.unlink(missing_ok=True)
        return Descriptor(
            media_type=LAYER_GZIP_TYPE,
            digest=digest,
            size_bytes=size_bytes,
            diff_id="sha256:" + uncompressed.hexdigest(),
        )

    def add_image(
        self, tag: str, layers: Sequence[Descriptor], config: ImageConfig = ImageConfig()
    ) -> WrittenImage:
        """Write config and manifest of an image and let `tag` name it."""
        config_blob = self.add_blob(
            _canonical(
                {
                    "created": EPOCH,
                    "architecture": config.architecture,
                    "os": "linux",
                    "config": {
                        "Env": [f"{name}={value}" for name, value in config.env.items()],
                        "WorkingDir": config.workdir,
                    },
                    "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                    "history": [{"created": EPOCH, "created_by": "infra/images"} for _ in layers],
                }
            ),
            CONFIG_TYPE,
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config_blob.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
        return WrittenImage(manifest=self.add_manifest(tag, manifest), config=config_blob)

    def add_manifest(self, tag: str, manifest: Mapping[str, Any]) -> Descriptor:
        """Write a manifest as it stands and let `tag` name it."""
        blob = self.add_blob(_canonical(manifest), str(manifest["mediaType"]))
        index_path = self.root / "index.json"
        entries: list[dict[str, Any]] = []
        if index_path.exists():
            entries = json.loads(index_path.read_bytes())["manifests"]
        name = "org.opencontainers.image.ref.name"
        entries = [entry for entry in entries if entry["annotations"][name] != tag]
        entries.append({**blob.as_json(), "annotations": {name: tag}})
        index_path.write_bytes(_canonical({"schemaVersion": 2, "manifests": entries}))
        return blob


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
