"""The Image aggregate: an immutable filesystem state. One event makes it; nothing changes it.

An image is an ordered list of layers (OCI `diff_id`s, bottom to top) with the environment and
working directory that runs on it inherit. It came from a registry or from an execution.

No event of an image grows with what lies below it (ADR 19): it records what the image adds, and
refers to the image below for the rest. The whole list of layers is a read model (`app.reads`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, register
from contree.domain.context import Context
from contree.domain.errors import LimitExceededError
from contree.domain.spec_body import Body

DEPTH_MAX = 100_000
"""How many runs may lie between an image and its import."""


def imported_image_id(project_id: UUID, config_digest: str) -> UUID:
    """The id of an imported image: an unchanged remote image gives the same id again.

    `config_digest` is the OCI image id (digest of the config), which fixes layers and environment.
    """
    return uuid5(project_id, f"image:{config_digest}")


def committed_image_id(operation_id: UUID) -> UUID:
    """The id of what an operation leaves behind: fixed by it, so a repeat cannot fork."""
    return uuid5(operation_id, "image")


def chain_id_of(diff_ids: Iterable[str], *, below: str | None = None) -> str | None:
    """Return the chain id (OCI image-spec, config.md) of layers on those of the chain id `below`.

    It is a digest of the whole stack; None for no layers at all.
    """
    chain_id = below
    for diff_id in diff_ids:
        if chain_id is None:
            chain_id = diff_id
        else:
            chain_id = f"sha256:{sha256(f'{chain_id} {diff_id}'.encode()).hexdigest()}"
    return chain_id


def require_depth_below_limit(image_id: UUID, depth: int) -> None:
    """Raise LimitExceededError when no run can leave an image on one of this `depth`."""
    if depth >= DEPTH_MAX:
        raise LimitExceededError(
            "depth",
            f"image '{image_id}' has {depth} runs below it, the most that are allowed: run on an "
            "image nearer to the import, or make the run disposable",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEnvironment:
    """The environment that an image hands down to runs, as an event carries it.

    env                   imported ENV as the registry has it: never sealed
    preserved_env         what `preserve_env` stored: of each value that is in
                          `preserved_env_sealed` only the name; else name to value
    preserved_env_sealed  the values, sealed under the project's key; None: nothing is
    body                  both of them in the content store, where they are long; empty here then
    """

    env: Mapping[str, str] = field(default_factory=dict)
    preserved_env: Mapping[str, str] = field(default_factory=dict)
    preserved_env_sealed: str | None = None
    body: Body | None = None


class ImageImported(Created):
    """Recorded by the worker when an import has stored every layer.

    layers              diff_ids, bottom to top, `sha256:<hex>`
    env, body, workdir  from the OCI config; as RecordedEnvironment has them
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

    layer                 the delta's diff_id, None when only environment or workdir changed
    depth                 number of runs from the import up to this image: 1 for the first
    chain_id              of the whole stack: with it, a stack that is read elsewhere is proved
    environment_image_id  the image whose event records the environment: this one when the run
                          stored one, else the one that the parent refers to
    preserved_env, preserved_env_sealed, body
                          as RecordedEnvironment has them; empty when another image records them
    size_bytes            of `layer`
    """

    TOPIC = "contree.image.committed"
    operation_id: UUID
    parent_image_id: UUID
    layer: str | None
    depth: int
    chain_id: str | None
    environment_image_id: UUID
    preserved_env: dict[str, str]
    preserved_env_sealed: str | None
    body: dict[str, Any] | None
    workdir: str
    size_bytes: int


class Image(Aggregate):
    """What one image adds to the image below it; an import has nothing below.

    own_layers            bottom to top: all of an import, at most one of a run
    chain_id              of the whole stack of layers (`chain_id_of`)
    environment_image_id  the image whose `environment` applies
    environment           what this image's event records. What a run stored with `preserve_env`
                          takes the place of the imported ENV, and applies in shell and direct mode
    """

    TOPIC = "contree.image"

    def __init__(
        self,
        workdir: str,
        size_bytes: int,
        operation_id: UUID,
        project_id: UUID,
        layers: list[str] | None = None,
        layer: str | None = None,
        depth: int = 0,
        chain_id: str | None = None,
        env: dict[str, str] | None = None,
        environment_image_id: UUID | None = None,
        parent_image_id: UUID | None = None,
        preserved_env: dict[str, str] | None = None,
        preserved_env_sealed: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        self.own_layers = layers or ([] if layer is None else [layer])
        self.depth = depth
        self.chain_id = chain_id_of(self.own_layers) if parent_image_id is None else chain_id
        self.environment_image_id = environment_image_id or self.id
        self.environment = RecordedEnvironment(
            env=env or {},
            preserved_env=preserved_env or {},
            preserved_env_sealed=preserved_env_sealed,
            body=Body.from_fact(body),
        )
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
        environment: RecordedEnvironment,
        workdir: str,
        size_bytes: int,
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
            env=dict(environment.env),
            body=_fact(environment.body),
            workdir=workdir,
            size_bytes=size_bytes,
        )

    def committed(
        self,
        context: Context,
        *,
        operation_id: UUID,
        layer: str | None,
        workdir: str,
        size_bytes: int,
        environment: RecordedEnvironment | None = None,
    ) -> Image:
        """Return the image that a run on this one left behind; `environment` None inherits.

        Raises LimitExceededError at DEPTH_MAX.
        """
        require_depth_below_limit(self.id, self.depth)
        image_id = committed_image_id(operation_id)
        recorded = RecordedEnvironment() if environment is None else environment
        return Image._begin(
            ImageCommitted,
            context,
            image_id,
            operation_id=operation_id,
            parent_image_id=self.id,
            layer=layer,
            depth=self.depth + 1,
            chain_id=chain_id_of([] if layer is None else [layer], below=self.chain_id),
            environment_image_id=self.environment_image_id if environment is None else image_id,
            preserved_env=dict(recorded.preserved_env),
            preserved_env_sealed=recorded.preserved_env_sealed,
            body=_fact(recorded.body),
            workdir=workdir,
            size_bytes=size_bytes,
        )


def _fact(body: Body | None) -> dict[str, Any] | None:
    return None if body is None else asdict(body)


register(Image, ImageImported, ImageCommitted)
