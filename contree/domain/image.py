"""The Image aggregate: an immutable filesystem state. One event makes it; nothing changes it.

An image is an ordered list of layers (OCI `diff_id`s, bottom to top) with the environment and
working directory that runs on it inherit. It came from a registry or from an execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar
from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, register
from contree.domain.context import Context
from contree.domain.spec_body import Body

LAYERS_MAX = 100_000
"""Bound on the logical layers of one image."""


def imported_image_id(project_id: UUID, config_digest: str) -> UUID:
    """The id of an imported image: an unchanged remote image gives the same id again.

    `config_digest` is the OCI image id (digest of the config), which fixes layers and environment.
    """
    return uuid5(project_id, f"image:{config_digest}")


def committed_image_id(operation_id: UUID) -> UUID:
    """The id of what an operation leaves behind: fixed by it, so a repeat cannot fork."""
    return uuid5(operation_id, "image")


class ImageImported(Created):
    """Recorded by the worker when an import has stored every layer.

    layers              diff_ids, bottom to top, `sha256:<hex>`
    env, workdir        from the OCI config; env is name to value
    body                Body of env where that is long, which is empty here then
    size_bytes          sum of the uncompressed layer tars
    """

    TOPIC = "contree.image.imported"
    operation_id: UUID
    registry_url: str
    manifest_digest: str
    config_digest: str
    layers: list[str]
    env: dict[str, str]
    body: dict[str, Any] | None
    workdir: str
    size_bytes: int


class ImageCommitted(Created):
    """Recorded by the worker together with the success of the run that left it behind.

    layer                 the delta's diff_id, None when only env or workdir changed
    env                   imported ENV that still applies, as the registry has it: never sealed
    preserved_env         of each value of `preserved_env_sealed` only the name; else name to value
    preserved_env_sealed  sealed under the project's key, from version 2 on; None: nothing is
    body                  Body of env and preserved_env where they are long; they are empty then
    size_bytes            of `layer`
    """

    TOPIC = "contree.image.committed"
    class_version: ClassVar[int] = 2
    operation_id: UUID
    parent_image_id: UUID
    layer: str | None
    layers: list[str]
    env: dict[str, str]
    preserved_env: dict[str, str]
    preserved_env_sealed: str | None
    body: dict[str, Any] | None
    workdir: str
    size_bytes: int

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["preserved_env_sealed"] = None


class Image(Aggregate):
    """An immutable filesystem state, with the metadata that runs on it inherit.

    `preserved_env` is what `preserve_env` stored; it applies in shell and direct mode alike. With a
    `body` both environments are in the content store, and empty here.
    """

    TOPIC = "contree.image"

    def __init__(
        self,
        layers: list[str],
        env: dict[str, str],
        workdir: str,
        size_bytes: int,
        operation_id: UUID,
        project_id: UUID,
        parent_image_id: UUID | None = None,
        preserved_env: dict[str, str] | None = None,
        preserved_env_sealed: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        self.layers = layers
        self.env = env
        self.preserved_env = preserved_env or {}
        self.preserved_env_sealed = preserved_env_sealed
        self.body = Body.from_fact(body)
        self.workdir = workdir
        self.size_bytes = size_bytes
        self.operation_id = operation_id
        self.project_id = project_id
        self.parent_image_id = parent_image_id

    @classmethod
    def imported(
        cls,
        context: Context,
        *,
        operation_id: UUID,
        registry_url: str,
        manifest_digest: str,
        config_digest: str,
        layers: Sequence[str],
        env: Mapping[str, str],
        workdir: str,
        size_bytes: int,
        body: Body | None = None,
    ) -> Image:
        return cls._begin(
            ImageImported,
            context,
            imported_image_id(context.project_id, config_digest),
            operation_id=operation_id,
            registry_url=registry_url,
            manifest_digest=manifest_digest,
            config_digest=config_digest,
            layers=list(layers),
            env=dict(env),
            body=None if body is None else asdict(body),
            workdir=workdir,
            size_bytes=size_bytes,
        )

    def committed(
        self,
        context: Context,
        *,
        operation_id: UUID,
        layer: str | None,
        preserved_env: Mapping[str, str],
        workdir: str,
        size_bytes: int,
        preserved_env_sealed: str | None = None,
        env: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Image:
        """Return the image that a run on this one left behind; `env` None keeps this one's."""
        return Image._begin(
            ImageCommitted,
            context,
            committed_image_id(operation_id),
            operation_id=operation_id,
            parent_image_id=self.id,
            layer=layer,
            layers=[*self.layers, *([layer] if layer is not None else [])],
            env=dict(self.env if env is None else env),
            preserved_env=dict(preserved_env),
            preserved_env_sealed=preserved_env_sealed,
            body=None if body is None else asdict(body),
            workdir=workdir,
            size_bytes=size_bytes,
        )


register(Image, ImageImported, ImageCommitted)
