"""Reads what skopeo wrote (its `dir:` form) as hostile input: manifest, config, layer files.

skopeo has checked each blob's digest against the manifest. Here every type, size and count is
checked before use. Layers are not opened: the layer store checks their content.
Source: OCI image-spec 1.0 manifest.md and config.md, Docker image manifest version 2 schema 2.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from contree.app.images.image_source import PulledImage, PulledLayer
from contree.domain.environment import check_environment
from contree.domain.errors import InvalidFieldError, RegistryFailure
from contree.domain.guest_path import parse_guest_path

MANIFEST_BYTES_MAX = 4 * 1024**2
"""What distribution registries and containerd accept."""
CONFIG_BYTES_MAX = 4 * 1024**2
LAYERS_MAX = 128
"""Docker's own bound is 127."""
PLATFORM = ("linux", "amd64")

MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Descriptor(msgspec.Struct, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: Size


class _Manifest(
    msgspec.Struct, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}
):
    schema_version: int
    media_type: str | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None


class _RootFilesystem(msgspec.Struct):
    type: str
    diff_ids: list[str]


class _Process(msgspec.Struct, rename={"env": "Env", "workdir": "WorkingDir"}):
    env: list[str] | None = None
    workdir: str | None = None


class _Config(msgspec.Struct):
    architecture: str
    os: str
    rootfs: _RootFilesystem
    config: _Process | None = None


T = TypeVar("T")


def read_pulled_image(directory: Path, *, bytes_max: int) -> PulledImage:
    """Return the image that skopeo left in `directory`; its layers are files there.

    `bytes_max` bounds the sum of the compressed layers.
    Raises RegistryFailure saying what is wrong with the image.
    """
    manifest_bytes = _read(directory / "manifest.json", "manifest", MANIFEST_BYTES_MAX)
    manifest = _decode(manifest_bytes, _Manifest, "manifest")
    config_descriptor, layers = _check_manifest(manifest)
    total_bytes = sum(layer.size for layer in layers)
    if total_bytes > bytes_max:
        raise RegistryFailure(f"the image is {total_bytes} bytes, at most {bytes_max} are allowed")
    config_bytes = _read(_blob(directory, config_descriptor.digest), "config", CONFIG_BYTES_MAX)
    if _digest(config_bytes) != config_descriptor.digest:
        raise RegistryFailure("the image is damaged: its config does not have its digest")
    config = _decode(config_bytes, _Config, "config")
    diff_ids = _check_config(config, layer_count=len(layers))
    process = config.config or _Process()
    return PulledImage(
        manifest_digest=_digest(manifest_bytes),
        config_digest=config_descriptor.digest,
        env=_environment(process.env or ()),
        workdir=_workdir(process.workdir or ""),
        layers=tuple(
            _layer(directory, descriptor, diff_id)
            for descriptor, diff_id in zip(layers, diff_ids, strict=True)
        ),
    )


def _check_manifest(manifest: _Manifest) -> tuple[_Descriptor, Sequence[_Descriptor]]:
    if manifest.schema_version != 2:  # noqa: PLR2004 - the version's own number
        raise RegistryFailure(
            f"the image's manifest has schema version {manifest.schema_version}, only 2 is known;"
            " push the image again with a current tool"
        )
    if manifest.media_type is not None and manifest.media_type not in MANIFEST_TYPES:
        raise RegistryFailure("the reference names something that is not a container image")
    if manifest.config is None or manifest.layers is None:
        raise RegistryFailure("the image's manifest lacks its config or its layers")
    if manifest.config.media_type not in CONFIG_TYPES:
        raise RegistryFailure("the reference names an artifact that is not a container image")
    if len(manifest.layers) > LAYERS_MAX:
        raise RegistryFailure(
            f"the image has {len(manifest.layers)} layers, at most {LAYERS_MAX} are allowed"
        )
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in LAYER_TYPES:
            raise RegistryFailure(
                f"layer {number} of the image is of a kind that cannot be imported"
                " (encrypted, foreign, or not a tar)"
            )
    for descriptor in (manifest.config, *manifest.layers):
        _check_digest(descriptor.digest)
    return manifest.config, manifest.layers


def _check_config(config: _Config, *, layer_count: int) -> Sequence[str]:
    if (config.os, config.architecture) != PLATFORM:
        raise RegistryFailure("the image is not built for linux/amd64")
    if config.rootfs.type != "layers":
        raise RegistryFailure("the image's config has a rootfs that is not made of layers")
    if len(config.rootfs.diff_ids) != layer_count:
        raise RegistryFailure(
            f"the image is damaged: {layer_count} layers, but its config names"
            f" {len(config.rootfs.diff_ids)}"
        )
    for diff_id in config.rootfs.diff_ids:
        _check_digest(diff_id)
    return config.rootfs.diff_ids


def _layer(directory: Path, descriptor: _Descriptor, diff_id: str) -> PulledLayer:
    blob = _blob(directory, descriptor.digest)
    if _regular_size_bytes(blob) != descriptor.size:
        raise RegistryFailure(
            f"the image is damaged: layer {descriptor.digest} is not of its stated size"
        )
    return PulledLayer(blob=blob, media_type=descriptor.media_type, diff_id=diff_id)


def _environment(entries: Sequence[str]) -> Mapping[str, str]:
    """An entry without `=` sets nothing, as in Docker; the last of equal names counts."""
    env = {name: value for name, equals, value in (e.partition("=") for e in entries) if equals}
    try:
        check_environment(env)
    except InvalidFieldError as error:
        raise RegistryFailure(f"the image's config is not valid: {error}") from error
    return env


def _workdir(text: str) -> str:
    """Absolute and normalised; a relative one counts from the root, as in Docker."""
    if not text:
        return ""
    try:
        return parse_guest_path(posixpath.join("/", text), field="WorkingDir")
    except InvalidFieldError as error:
        raise RegistryFailure(f"the image's config is not valid: {error}") from error


def _decode(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryFailure(f"the image's {what} is not valid: {error}") from error


def _read(path: Path, what: str, bytes_max: int) -> bytes:
    if _regular_size_bytes(path) > bytes_max:
        raise RegistryFailure(f"the image's {what} is larger than {bytes_max} bytes")
    return path.read_bytes()


def _regular_size_bytes(path: Path) -> int:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise RegistryFailure("the image is damaged: a part of it is missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise RegistryFailure("the image is damaged: a part of it is not a file")
    return status.st_size


def _blob(directory: Path, digest: str) -> Path:
    return directory / digest.removeprefix("sha256:")


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _check_digest(text: str) -> None:
    # Also what keeps a hostile digest from naming a file elsewhere.
    if not _DIGEST.fullmatch(text):
        raise RegistryFailure("the image names a digest that is not sha256 in lower case")
