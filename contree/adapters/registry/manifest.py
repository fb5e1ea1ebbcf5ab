"""What a registry says an image is, as hostile input: manifest, index, config.

Every type, size and count is checked before use. What a document is, its content decides: media
types are often wrong or absent, and Docker goes by the content too. Layers are not opened here: the
layer store checks theirs.
Source: OCI image-spec 1.1 manifest.md, image-index.md and config.md, Docker image manifest
version 2 schema 2.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

from contree.domain.environment import check_environment
from contree.domain.errors import InvalidFieldError, RegistryFailure
from contree.domain.guest_path import parse_guest_path

MANIFEST_BYTES_MAX = 4 * 1024**2
"""What distribution registries and containerd accept."""
CONFIG_BYTES_MAX = 4 * 1024**2
LAYERS_MAX = 512
"""Docker stacks 127; containerd and podman store more. An event names them all."""
PLATFORM = ("linux", "amd64")

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *INDEX_TYPES,
)
"""What we ask for."""
CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        "application/octet-stream",
        "text/html",
        "",
    }
)
"""The last three are what old registries made of a config. Any other type says that the manifest is
an artifact, which is no image."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class Descriptor(msgspec.Struct, rename={"media_type": "mediaType"}):
    """A blob or document, by digest. `size` is in bytes."""

    digest: str
    size: Size
    media_type: str = ""
    platform: Platform | None = None

    def __post_init__(self) -> None:
        # Also what keeps a hostile digest from naming a file elsewhere.
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError("a digest is not sha256 in lower case")

    @property
    def hexdigest(self) -> str:
        return self.digest.removeprefix("sha256:")


class ImageManifest(msgspec.Struct):
    """One image."""

    config: Descriptor
    layers: list[Descriptor]


class ImageIndex(msgspec.Struct):
    """Several images, by platform."""

    manifests: list[Descriptor]


class _Document(
    msgspec.Struct, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}
):
    schema_version: int
    media_type: str | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


class _RootFilesystem(msgspec.Struct):
    type: str = "layers"
    diff_ids: list[str] | None = None


class _Process(msgspec.Struct, rename={"env": "Env", "workdir": "WorkingDir"}):
    env: list[str] | None = None
    workdir: str | None = None


class _Config(msgspec.Struct):
    architecture: str
    os: str
    rootfs: _RootFilesystem
    config: _Process | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What runs inherit, and the digests of the uncompressed layers."""

    env: Mapping[str, str]
    workdir: str
    diff_ids: Sequence[str]


T = TypeVar("T")


def read_document(content: bytes) -> ImageManifest | ImageIndex:
    """Return what the registry's answer to a reference is. Raises RegistryFailure."""
    document = _decode(content, _Document, "manifest")
    if document.schema_version != 2:  # noqa: PLR2004 - the version's own number
        raise RegistryFailure(
            f"the image's manifest has schema version {document.schema_version}, only 2 is known;"
            " push the image again with a current tool"
        )
    if document.manifests is not None and document.layers is None:
        return ImageIndex(manifests=document.manifests)
    if document.config is None or document.layers is None:
        raise RegistryFailure("the image's manifest lacks its config or its layers")
    if _plain(document.config.media_type) not in CONFIG_TYPES:
        raise RegistryFailure("the reference names an artifact that is not a container image")
    if len(document.layers) > LAYERS_MAX:
        raise RegistryFailure(
            f"the image has {len(document.layers)} layers, at most {LAYERS_MAX} are allowed"
        )
    for number, layer in enumerate(document.layers):
        if _plain(layer.media_type).endswith("+encrypted"):
            raise RegistryFailure(
                f"layer {number} of the image is encrypted; push the image without encryption"
            )
    return ImageManifest(config=document.config, layers=document.layers)


def is_index(media_type: str) -> bool:
    return _plain(media_type) in INDEX_TYPES


def read_config(content: bytes, *, layer_count: int) -> ImageConfig:
    """Return what the config says of an image of `layer_count` layers. Raises RegistryFailure."""
    config = _decode(content, _Config, "config")
    if (config.os, config.architecture) != PLATFORM:
        raise RegistryFailure(
            f"the image is built for {config.os[:40]}/{config.architecture[:40]},"
            " not for linux/amd64"
        )
    if config.rootfs.type != "layers":
        raise RegistryFailure("the image's config has a rootfs that is not made of layers")
    diff_ids = config.rootfs.diff_ids or []
    if len(diff_ids) != layer_count:
        raise RegistryFailure(
            f"the image is damaged: {layer_count} layers, but its config names {len(diff_ids)}"
        )
    if not all(map(_DIGEST.fullmatch, diff_ids)):
        raise RegistryFailure("the image names a digest that is not sha256 in lower case")
    process = config.config or _Process()
    return ImageConfig(
        env=_environment(process.env or ()),
        workdir=_workdir(process.workdir or ""),
        diff_ids=diff_ids,
    )


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _plain(media_type: str) -> str:
    """A media type without parameters, which may follow a `;`."""
    return media_type.partition(";")[0].strip().lower()


def _environment(entries: Sequence[str]) -> Mapping[str, str]:
    """An entry without a name or `=` sets nothing, as in Docker; the last of equal names counts."""
    pairs = (entry.partition("=") for entry in entries)
    env = {name: value for name, equals, value in pairs if name and equals}
    try:
        check_environment(env)
    except InvalidFieldError as error:
        raise RegistryFailure(f"the image's config is not valid: {error}") from error
    return env


def _workdir(text: str) -> str:
    """Absolute and normalised, `..` included; a relative one counts from the root, as in Docker."""
    if not text:
        return ""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise RegistryFailure("the image's config is not valid: WorkingDir has control characters")
    try:
        return parse_guest_path(posixpath.normpath(f"/{text}"), field="WorkingDir")
    except InvalidFieldError as error:
        raise RegistryFailure(f"the image's config is not valid: {error}") from error


def _decode(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryFailure(f"the image's {what} is not valid: {error}") from error
